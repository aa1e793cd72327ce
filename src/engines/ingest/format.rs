//! Which format a body has: by its name, its content type, or its first bytes and file name.
//! Pure; the REST edge calls `from_content_type`, the engine calls `sniff` when nobody named one.

use std::str::FromStr;

/// A format that the engine reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileFormat {
    /// Separated values with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// A JSON array of objects (or objects one after the other).
    JsonArray,
    /// Apache Parquet.
    Parquet,
    /// Apache Arrow IPC, stream or file.
    ArrowIpc,
}

/// The name stands for no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format: use csv, ndjson, json, parquet or arrow")]
pub struct UnknownFormatName(pub String);

impl FromStr for FileFormat {
    type Err = UnknownFormatName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Ok(Self::Csv),
            "ndjson" | "jsonl" => Ok(Self::Ndjson),
            "json" => Ok(Self::JsonArray),
            "parquet" => Ok(Self::Parquet),
            "arrow" | "ipc" | "feather" | "arrows" => Ok(Self::ArrowIpc),
            _ => Err(UnknownFormatName(name.to_owned())),
        }
    }
}

impl FileFormat {
    /// The name that `FromStr` reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::JsonArray => "json",
            Self::Parquet => "parquet",
            Self::ArrowIpc => "arrow",
        }
    }

    /// The format that an HTTP content type names, parameters ignored; `None` for any other type.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/csv" | "application/csv" | "text/tab-separated-values" => Some(Self::Csv),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines" => Some(Self::Ndjson),
            "application/json" | "text/json" => Some(Self::JsonArray),
            "application/vnd.apache.parquet" | "application/x-parquet" | "application/parquet" => {
                Some(Self::Parquet)
            }
            "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => {
                Some(Self::ArrowIpc)
            }
            _ => None,
        }
    }

    /// The format of (decompressed) bytes: binary magic first, then the file name, then the text.
    pub fn sniff(first_bytes: &[u8], file_name: Option<&str>) -> Option<Self> {
        if first_bytes.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        if first_bytes.starts_with(b"ARROW1") || first_bytes.starts_with(&[0xFF, 0xFF, 0xFF, 0xFF])
        {
            return Some(Self::ArrowIpc);
        }
        if let Some(format) = file_name.and_then(Self::from_file_name) {
            return Some(format);
        }
        Self::sniff_text(first_bytes)
    }

    /// The format that a file name's ending stands for, with `.gz` or `.zst` taken off.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        let bare = [".gz", ".zst", ".zstd"]
            .iter()
            .find_map(|ending| lower.strip_suffix(ending))
            .unwrap_or(&lower);
        let (_, ending) = bare.rsplit_once('.')?;
        ending.parse().ok()
    }

    fn sniff_text(first_bytes: &[u8]) -> Option<Self> {
        let bytes = first_bytes
            .strip_prefix(b"\xEF\xBB\xBF")
            .unwrap_or(first_bytes);
        let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let bytes = &bytes[start..];
        match bytes[0] {
            b'[' => Some(Self::JsonArray),
            b'{' => Some(match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) if !first_line_is_object(&bytes[..end]) => Self::JsonArray,
                _ => Self::Ndjson,
            }),
            0 => None,
            _ => Some(Self::Csv),
        }
    }
}

/// A line that closes what it opens is NDJSON; one that does not starts a printed object.
fn first_line_is_object(line: &[u8]) -> bool {
    line.trim_ascii_end().ends_with(b"}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_content_types_and_file_names_lead_to_formats() {
        for (name, format) in [
            ("csv", FileFormat::Csv),
            ("jsonl", FileFormat::Ndjson),
            ("ndjson", FileFormat::Ndjson),
            ("json", FileFormat::JsonArray),
            ("parquet", FileFormat::Parquet),
            ("arrow", FileFormat::ArrowIpc),
        ] {
            assert_eq!(name.parse(), Ok(format));
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(
                FileFormat::from_file_name(&format!("a.b.{name}.gz")),
                Some(format)
            );
        }
        assert!("xml".parse::<FileFormat>().is_err());
        assert_eq!(
            FileFormat::from_content_type("text/csv; charset=utf-8"),
            Some(FileFormat::Csv)
        );
        assert_eq!(FileFormat::from_content_type("multipart/form-data"), None);
    }

    #[test]
    fn first_bytes_lead_to_formats() {
        for (bytes, format) in [
            (&b"PAR1..."[..], FileFormat::Parquet),
            (b"ARROW1\0\0", FileFormat::ArrowIpc),
            (b"\xFF\xFF\xFF\xFF\x10", FileFormat::ArrowIpc),
            (b" [{\"a\":1}]", FileFormat::JsonArray),
            (b"{\"a\":1}\n{\"a\":2}\n", FileFormat::Ndjson),
            (b"{\n \"a\":1}\n", FileFormat::JsonArray),
            (b"\xEF\xBB\xBFa,b\n1,2\n", FileFormat::Csv),
        ] {
            assert_eq!(FileFormat::sniff(bytes, None), Some(format));
        }
        assert_eq!(FileFormat::sniff(b"  \n ", None), None);
        assert_eq!(
            FileFormat::sniff(b"[1]", Some("x.csv")),
            Some(FileFormat::Csv)
        );
    }
}
