//! Arrow IPC in: message by message, each checked before it is decoded, streams and files alike.
//! `ingest::mod` calls `ingest_ipc`; decoding runs guarded against panics.

use std::io::{self, Read};

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc;
use arrow::ipc::reader::StreamDecoder;

use super::{Rewriter, guarded, invalid};
use crate::engines::ingest::error::{IngestError, from_read};
use crate::engines::ingest::source::Source;
use crate::engines::ingest::writer::Sink;
use crate::engines::ingest::{Ready, Setup};

const IPC: &str = "Arrow IPC";
/// What ends an IPC stream.
const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// Reads an Arrow IPC body: a stream, or a file, which is a stream between magic and footer.
pub(in crate::engines::ingest) fn ingest_ipc(
    mut source: Source<'_>,
    setup: &Setup,
) -> Result<Ready, IngestError> {
    let (sink, schema) = guarded(IPC, || rewrite_ipc(&mut source, setup))?;
    let received = source.finish()?;
    Ok(Ready {
        sink,
        schema,
        received,
    })
}

fn rewrite_ipc(source: &mut Source<'_>, setup: &Setup) -> Result<(Sink, SchemaRef), IngestError> {
    let mut magic = vec![0; magic_bytes(source.head())];
    read_exact(source, &mut magic)?;
    let mut stream = IpcStream {
        decoder: StreamDecoder::new(),
        rewriter: None,
        setup,
    };
    while let Some(message) = next_message(source, setup)? {
        stream.feed(message)?;
    }
    stream.feed(END_OF_STREAM.to_vec())?;
    let rewriter = stream
        .rewriter
        .ok_or_else(|| invalid(IPC, "the schema is missing"))?;
    Ok((rewriter.sink, rewriter.schema))
}

/// Bytes before the first message: none in a stream; in a file the magic and zeros, which fill it
/// up to 8 bytes or, as some writers align more, a multiple of that.
fn magic_bytes(head: &[u8]) -> usize {
    match head.strip_prefix(b"ARROW1") {
        None => 0,
        Some(rest) => {
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            (b"ARROW1".len() + zeros) / 8 * 8
        }
    }
}

/// A decoder and where its batches go.
struct IpcStream<'a> {
    decoder: StreamDecoder,
    rewriter: Option<Rewriter<'a>>,
    setup: &'a Setup,
}

impl IpcStream<'_> {
    /// Decodes one message. The decoder takes in a message without a body with the one after it.
    fn feed(&mut self, message: Vec<u8>) -> Result<(), IngestError> {
        let mut buffer = Buffer::from_vec(message);
        while !buffer.is_empty() {
            let decoded = self.decoder.decode(&mut buffer);
            let decoded = decoded.map_err(|error| invalid(IPC, error))?;
            if let (None, Some(schema)) = (&self.rewriter, self.decoder.schema()) {
                self.rewriter = Some(Rewriter::new(IPC, &schema, self.setup)?);
            }
            if let (Some(batch), Some(rewriter)) = (decoded, &mut self.rewriter) {
                rewriter.push(&batch)?;
            }
        }
        Ok(())
    }
}

fn read_exact(source: &mut impl Read, out: &mut [u8]) -> Result<(), IngestError> {
    source
        .read_exact(out)
        .map_err(|error| match from_read(error) {
            IngestError::Disconnected(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                invalid(IPC, "the stream is cut short")
            }
            other => other,
        })
}

/// One whole, checked message with its framing; `None` at the end of the stream.
fn next_message(source: &mut impl Read, setup: &Setup) -> Result<Option<Vec<u8>>, IngestError> {
    let mut word = [0; 4];
    if !read_start(source, &mut word)? {
        return Ok(None);
    }
    let mut framed = word.to_vec();
    if word == [0xFF; 4] {
        read_exact(source, &mut word)?;
        framed.extend_from_slice(&word);
    }
    let size = u64::try_from(i32::from_le_bytes(word))
        .map_err(|_| invalid(IPC, "a negative message header length"))?;
    if size == 0 {
        return Ok(None);
    }
    if size > setup.limits.footer_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message header",
            limit_bytes: setup.limits.footer_bytes_max,
        });
    }
    let header = framed.len();
    take_into(source, &mut framed, size)?;
    let body = {
        let message =
            ipc::root_as_message(&framed[header..]).map_err(|error| invalid(IPC, error))?;
        u64::try_from(message.bodyLength()).map_err(|_| invalid(IPC, "a negative body length"))?
    };
    if body > setup.limits.message_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message",
            limit_bytes: setup.limits.message_bytes_max,
        });
    }
    let start = framed.len();
    take_into(source, &mut framed, body)?;
    check_message(&framed[header..start], &framed[start..], setup)?;
    Ok(Some(framed))
}

/// Reads four bytes; false when the stream ends before the first.
fn read_start(source: &mut impl Read, word: &mut [u8; 4]) -> Result<bool, IngestError> {
    let length = source.read(&mut word[..1]).map_err(from_read)?;
    if length == 0 {
        return Ok(false);
    }
    read_exact(source, &mut word[1..])?;
    Ok(true)
}

/// Appends `length` bytes; memory grows with what arrives, not with what was promised.
fn take_into(source: &mut impl Read, out: &mut Vec<u8>, length: u64) -> Result<(), IngestError> {
    let before = out.len() as u64;
    source
        .by_ref()
        .take(length)
        .read_to_end(out)
        .map_err(from_read)?;
    if out.len() as u64 - before != length {
        return Err(invalid(IPC, "the stream is cut short"));
    }
    Ok(())
}

/// The buffers of a message lie in its body, and what they decompress to is within limits.
fn check_message(header: &[u8], body: &[u8], setup: &Setup) -> Result<(), IngestError> {
    let message = ipc::root_as_message(header).map_err(|error| invalid(IPC, error))?;
    let batch = match message.header_type() {
        ipc::MessageHeader::RecordBatch => message.header_as_record_batch(),
        ipc::MessageHeader::DictionaryBatch => message
            .header_as_dictionary_batch()
            .and_then(|batch| batch.data()),
        _ => None,
    };
    let Some(batch) = batch else {
        return Ok(());
    };
    let compressed = batch.compression().is_some();
    let mut total = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok());
        let bytes =
            range.and_then(|(offset, length)| body.get(offset..offset.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| invalid(IPC, "a buffer lies outside its message"))?;
        if compressed && !bytes.is_empty() {
            total = total.saturating_add(decompressed_size(bytes)?);
        }
    }
    if total > setup.limits.message_bytes_max {
        return Err(IngestError::TooLarge {
            what: "Arrow IPC message",
            limit_bytes: setup.limits.message_bytes_max,
        });
    }
    if total > body.len() as u64 * setup.limits.ratio_max && total > 1 << 20 {
        return Err(IngestError::Bomb {
            ratio: setup.limits.ratio_max,
        });
    }
    Ok(())
}

/// The size that stands before a compressed buffer; -1 says that it is not compressed after all.
fn decompressed_size(bytes: &[u8]) -> Result<u64, IngestError> {
    let prefix = bytes
        .first_chunk::<8>()
        .ok_or_else(|| invalid(IPC, "a compressed buffer is too short"))?;
    match i64::from_le_bytes(*prefix) {
        -1 => Ok(bytes.len() as u64),
        size => u64::try_from(size).map_err(|_| invalid(IPC, "a negative buffer size")),
    }
}
