//! What happens to every number of a vector on its way into a graph: it is scaled, and rounded where the
//! graph keeps bytes. The usearch engine calls it for rows and for queries.

/// Numbers that are compared at a time.
const LANES: usize = 16;
/// Added to a number below 2^22 it leaves the nearest whole number in the lowest bits.
const ROUNDING: f32 = 12_582_912.0;

/// Every number times `factor`.
pub fn scaled(vector: &[f32], factor: f32) -> Vec<f32> {
    vector.iter().map(|value| value * factor).collect()
}

/// Every number times `factor` as the nearest whole number, an even one when two are as near; what lies
/// beyond -127 and 127 becomes these.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lowest byte is the number"
)]
pub fn in_bytes(vector: &[f32], factor: f32) -> Vec<i8> {
    let rounded = vector.iter().map(|value| {
        let scaled = (value * factor).clamp(-127.0, 127.0);
        (scaled + ROUNDING).to_bits() as i8
    });
    rounded.collect()
}

/// The largest absolute value; 0 when there are no numbers.
pub fn largest(vector: &[f32]) -> f32 {
    let mut largest = [0.0_f32; LANES];
    let (blocks, rest) = vector.as_chunks::<LANES>();
    for block in blocks {
        for (largest, value) in largest.iter_mut().zip(block) {
            let value = value.abs();
            *largest = if value > *largest { value } else { *largest };
        }
    }
    let rest = rest.iter().map(|value| value.abs());
    rest.chain(largest).fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_nearest_whole_numbers_and_end_at_127() {
        let numbers = [0.0, 0.4, 0.6, -0.4, -0.6, 1.5, 2.5, 126.7, 127.4, 9e9, -9e9];
        let bytes = [0, 0, 1, 0, -1, 2, 2, 127, 127, 127, -127];
        assert_eq!(in_bytes(&numbers, 1.0), bytes);
        let halves = numbers.map(|number| number / 2.0);
        assert_eq!(in_bytes(&halves, 2.0), bytes);
        for whole in -127_i8..=127 {
            assert_eq!(in_bytes(&[f32::from(whole)], 1.0), [whole]);
        }
    }

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        assert_eq!(largest(&[]).to_bits(), 0);
        for length in [1, 15, 16, 17, 40] {
            for at in 0..length {
                let mut vector = vec![0.5; length];
                vector[at] = -2.0;
                assert!(
                    (largest(&vector) - 2.0).abs() < f32::EPSILON,
                    "{at} of {length}"
                );
            }
        }
    }
}
