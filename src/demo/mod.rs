//! The main job on real data, narrated.

pub mod data;
