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
