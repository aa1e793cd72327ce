//! usearch's file as it lies in memory: the rounded vectors, then a tape with the links of each node.
//! A walk follows its links. Format of usearch 2.26: u32 rows, u32 bytes a row, the
//! rows; a head of 64 bytes; five u64 (nodes, links a node on upper levels and on the lowest, highest
//! level, entry); an i16 level a node; then for each node a u64 key, its i16 level, and for each level
//! from the lowest a u32 count and room for so many u32 links.

use memmap2::Mmap;

const HEAD_BYTES: usize = 64;
const COUNTS_BYTES: usize = 40;
const NODE_HEAD_BYTES: usize = 10;

/// Where things lie in a mapped file.
pub struct Tape {
    map: Mmap,
    /// Bytes before usearch's own.
    start: usize,
    /// Number of nodes.
    pub nodes: usize,
    /// Bytes of a row.
    pub stride: usize,
    /// Where a search begins.
    pub entry: u32,
    /// The level of the entry.
    pub max_level: usize,
    lowest_bytes: usize,
    upper_bytes: usize,
    /// Where each node's tape begins.
    offsets: Vec<u64>,
    /// The key of each: a walk with a filter asks for that of every node, and its tape lies far away.
    keys: Vec<u32>,
}

impl Tape {
    /// Reads where things lie; `start` bytes come before usearch's own. `None` when the parts do not add
    /// up to the file, or a key has more than 32 bits.
    pub fn open(map: Mmap, start: usize) -> Option<Self> {
        let size = |at: usize| usize::try_from(u64_at(&map, at)?).ok();
        let nodes = u32_at(&map, start)? as usize;
        let stride = u32_at(&map, start + 4)? as usize;
        let counts = (start + 8 + HEAD_BYTES).checked_add(nodes.checked_mul(stride)?)?;
        let lowest_bytes = 4 + 4 * size(counts + 16)?;
        let upper_bytes = 4 + 4 * size(counts + 8)?;
        let max_level = size(counts + 24)?;
        let entry = u32::try_from(size(counts + 32)?).ok()?;
        let levels = map.get(counts + COUNTS_BYTES..)?.get(..nodes * 2)?;
        let mut at = counts + COUNTS_BYTES + nodes * 2;
        let mut offsets = Vec::with_capacity(nodes);
        let mut keys = Vec::with_capacity(nodes);
        for level in levels.as_chunks().0 {
            offsets.push(at as u64);
            keys.push(u32::try_from(u64_at(&map, at)?).ok()?);
            let level = usize::try_from(i16::from_le_bytes(*level)).ok()?;
            at += NODE_HEAD_BYTES + lowest_bytes + level * upper_bytes;
        }
        let whole = at == map.len()
            && size(counts)? == nodes
            && (entry as usize) < nodes
            && max_level * 2 <= levels.len();
        whole.then_some(Self {
            map,
            start,
            nodes,
            stride,
            entry,
            max_level,
            lowest_bytes,
            upper_bytes,
            offsets,
            keys,
        })
    }

    /// What usearch wrote.
    pub fn content(&self) -> &[u8] {
        &self.map[self.start..]
    }

    /// The rounded vectors, row after row.
    pub fn rows(&self) -> &[u8] {
        &self.map[self.start + 8..self.start + 8 + self.nodes * self.stride]
    }

    /// The key that a node was given.
    pub fn key(&self, node: u32) -> u64 {
        u64::from(self.keys[node as usize])
    }

    /// The links of a node on a level; none where it is not.
    pub fn links(&self, node: u32, level: usize) -> impl Iterator<Item = u32> + '_ {
        let below = if level == 0 {
            0
        } else {
            self.lowest_bytes + (level - 1) * self.upper_bytes
        };
        let at = self.offset(node) + NODE_HEAD_BYTES + below;
        let count = u32_at(&self.map, at).unwrap_or_default() as usize;
        let links = self.map.get(at + 4..at + 4 + count * 4).unwrap_or_default();
        links
            .as_chunks()
            .0
            .iter()
            .map(|&link| u32::from_le_bytes(link))
    }

    /// The nodes that no way over links leads to from the entry, in their order.
    pub fn unreached(&self) -> Vec<u32> {
        let mut reached = vec![false; self.nodes];
        reached[self.entry as usize] = true;
        let mut found = vec![self.entry];
        // Who is reached on a level is on those below it too.
        for level in (0..=self.max_level).rev() {
            let mut next = 0;
            while let Some(&node) = found.get(next) {
                next += 1;
                for link in self.links(node, level) {
                    if let Some(link_reached @ false) = reached.get_mut(link as usize) {
                        *link_reached = true;
                        found.push(link);
                    }
                }
            }
        }
        let nodes = (0_u32..).zip(reached);
        nodes
            .filter_map(|(node, reached)| (!reached).then_some(node))
            .collect()
    }

    /// The nodes that none of those that they link to on the lowest level links to, in their order: a search
    /// that has come near may still not come to them.
    pub fn unreturned(&self) -> Vec<u32> {
        let returned = |node: u32| {
            let mut links = self
                .links(node, 0)
                .filter(|link| (*link as usize) < self.nodes);
            links.any(|link| self.links(link, 0).any(|back| back == node))
        };
        (0_u32..)
            .take(self.nodes)
            .filter(|&node| !returned(node))
            .collect()
    }

    /// What is read of a node's links on the lowest level, to have it brought near.
    pub fn lowest(&self, node: u32) -> &[u8] {
        let at = self.offset(node);
        let end = (at + NODE_HEAD_BYTES + self.lowest_bytes).min(self.map.len());
        &self.map[at..end]
    }

    /// Bytes in memory when all of it has been touched.
    pub fn memory_bytes(&self) -> usize {
        self.map.len() + self.nodes * (size_of::<u64>() + size_of::<u32>())
    }

    fn offset(&self, node: u32) -> usize {
        usize::try_from(self.offsets[node as usize]).expect("a position in a file that is mapped")
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of nodes without rows: for each, its links on every level that it is on, from the lowest.
    fn tape(nodes: &[&[&[u32]]], entry: u64) -> Tape {
        let mut bytes = vec![0; 8 + HEAD_BYTES];
        bytes[..4].copy_from_slice(&u32::try_from(nodes.len()).unwrap().to_le_bytes());
        let highest = nodes.iter().map(|levels| levels.len() - 1).max().unwrap();
        for count in [nodes.len() as u64, 2, 2, highest as u64, entry] {
            bytes.extend(count.to_le_bytes());
        }
        let level = |levels: &[&[u32]]| i16::try_from(levels.len() - 1).unwrap().to_le_bytes();
        bytes.extend(nodes.iter().flat_map(|levels| level(levels)));
        for (key, levels) in nodes.iter().enumerate() {
            bytes.extend((key as u64).to_le_bytes());
            bytes.extend(level(levels));
            for links in *levels {
                bytes.extend(u32::try_from(links.len()).unwrap().to_le_bytes());
                let room = links.iter().chain(&[0, 0]).take(2);
                bytes.extend(room.flat_map(|link| link.to_le_bytes()));
            }
        }
        let mut map = memmap2::MmapMut::map_anon(bytes.len()).unwrap();
        map.copy_from_slice(&bytes);
        Tape::open(map.make_read_only().unwrap(), 0).expect("it is a tape")
    }

    #[test]
    fn what_no_links_lead_to_is_found_on_every_level() {
        let over_the_upper_level = [
            &[&[1][..], &[3]][..],
            // A link to nowhere is no way.
            &[&[99]],
            &[&[]],
            &[&[2], &[]],
            &[&[0]],
        ];
        assert_eq!(tape(&over_the_upper_level, 0).unreached(), [4]);
        let without_it = [&[&[1][..], &[]][..], &[&[0]], &[&[]], &[&[2], &[]], &[&[0]]];
        assert_eq!(tape(&without_it, 0).unreached(), [2, 3, 4]);
        assert_eq!(tape(&[&[&[]]], 0).unreached(), [0_u32; 0]);
    }

    #[test]
    fn what_its_own_neighbours_do_not_link_to_is_found() {
        let nodes = [
            &[&[1, 2][..]][..],
            &[&[2, 0]],
            &[&[1]],
            // Led to by another than those that it leads to.
            &[&[0, 99]],
            &[&[3]],
        ];
        assert_eq!(tape(&nodes, 0).unreturned(), [3, 4]);
    }
}
