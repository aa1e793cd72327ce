//! A walk over Thrift compact bytes that believes nothing: it bounds every length and list before
//! the Parquet reader allocates for them. Pure; `columnar` walks footers and page headers with it.
//! The encoding is that of the Apache Thrift compact protocol specification.

/// Levels of nesting at most.
const DEPTH_MAX: u32 = 32;

/// The bytes are not well-formed, or promise more than they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

type Walked<T> = Result<T, Malformed>;

/// What the first fields of a struct hold: integers by field id, up to 7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Integers of the outermost struct, by field id.
    pub integers: [i64; 8],
    /// The same of the structs in fields 5 and 8: a page header's data page headers.
    pub nested: [[i64; 8]; 2],
    /// Bytes of the struct.
    pub length: usize,
}

/// Walks over one struct at the start of `bytes`.
pub(super) fn walk(bytes: &[u8]) -> Walked<Walk> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut found = Walk::default();
    cursor.structure(0, &mut found.integers, &mut found.nested)?;
    found.length = cursor.at;
    Ok(found)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Walked<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Walked<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F)
                .checked_shl(shift)
                .unwrap_or_default();
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Walked<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn skip(&mut self, length: u64) -> Walked<()> {
        let left = self.bytes.len() - self.at;
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        if length > left {
            return Err(Malformed);
        }
        self.at += length;
        Ok(())
    }

    fn structure(
        &mut self,
        depth: u32,
        integers: &mut [i64; 8],
        nested: &mut [[i64; 8]],
    ) -> Walked<()> {
        if depth == DEPTH_MAX {
            return Err(Malformed);
        }
        let mut field = 0i64;
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Ok(());
            }
            field = match header >> 4 {
                0 => self.zigzag()?,
                delta => field.checked_add(i64::from(delta)).ok_or(Malformed)?,
            };
            match (header & 0x0F, field, &mut *nested) {
                // A boolean field stands in its header.
                (1 | 2, ..) => {}
                (4..=6, ..) => {
                    let value = self.zigzag()?;
                    let slot = usize::try_from(field).ok();
                    if let Some(slot) = slot.and_then(|field| integers.get_mut(field)) {
                        *slot = value;
                    }
                }
                (12, 5, [found, _]) | (12, 8, [_, found]) => {
                    self.structure(depth + 1, found, &mut [])?;
                }
                (kind, ..) => self.value(kind, depth)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: u32) -> Walked<()> {
        match kind {
            // A boolean in a list takes a byte; as a field it stands in the header.
            1..=3 => self.skip(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => self.list(depth + 1),
            11 => self.map(depth + 1),
            12 => self.structure(depth + 1, &mut [0; 8], &mut []),
            13 => self.skip(16),
            _ => Err(Malformed),
        }
    }

    fn list(&mut self, depth: u32) -> Walked<()> {
        if depth >= DEPTH_MAX {
            return Err(Malformed);
        }
        let header = self.byte()?;
        let size = match header >> 4 {
            15 => self.varint()?,
            size => u64::from(size),
        };
        self.elements(size, &[header & 0x0F], depth)
    }

    fn map(&mut self, depth: u32) -> Walked<()> {
        let size = self.varint()?;
        if size == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        self.elements(size, &[kinds >> 4, kinds & 0x0F], depth)
    }

    /// Every element takes a byte at least, so more elements than bytes are a lie.
    fn elements(&mut self, size: u64, kinds: &[u8], depth: u32) -> Walked<()> {
        if size > (self.bytes.len() - self.at) as u64 {
            return Err(Malformed);
        }
        for _ in 0..size {
            for kind in kinds {
                self.value(*kind, depth)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integers_of_a_page_header_are_read_and_its_end_is_found() {
        // type = 0, uncompressed = 100, compressed = 50, in field 5 a struct with one integer.
        let bytes = [
            0x15, 0x00, 0x15, 0xC8, 0x01, 0x15, 0x64, 0x2C, 0x15, 0x02, 0x00, 0x00, 0xAA,
        ];
        let found = walk(&bytes).unwrap();
        assert_eq!(found.integers[1..4], [0, 100, 50]);
        assert_eq!(found.nested[0][1], 1);
        assert_eq!(found.length, bytes.len() - 1);
    }

    #[test]
    fn a_list_longer_than_the_bytes_is_refused() {
        // Field 1, a list of 2^31 structs in eight bytes.
        let bytes = [0x19, 0xFC, 0x80, 0x80, 0x80, 0x80, 0x08, 0x00];
        assert_eq!(walk(&bytes), Err(Malformed));
    }

    #[test]
    fn nesting_without_end_is_refused() {
        assert_eq!(walk(&[0x1C; 4096]), Err(Malformed));
    }
}
