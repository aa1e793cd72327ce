//! A strict JSON reader (RFC 8259) that fills builders and notes shapes in one walk over the text.
//! Pure. Errors carry the byte at which they stand; `super` turns it into line and column.

use std::borrow::Cow;

use super::build::{Builder, Data};
use super::shape::JsonShape;
use crate::engines::ingest::kinds::{Kinds, Value};
use crate::engines::ingest::values::{classify, parse_float, parse_int};

/// Levels of nesting at most.
const DEPTH_MAX: usize = 64;

/// Why the text is not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub reason: &'static str,
}

type Walked<T> = Result<T, Fault>;

/// A reader over one text.
pub(super) struct Walker<'a> {
    text: &'a [u8],
    pub at: usize,
    depth: usize,
    /// Whether every value fitted its builder.
    pub fits: bool,
    /// New paths that shapes may still get.
    pub paths_left: usize,
    /// A limit of paths was passed.
    pub too_many_paths: bool,
}

/// A value that was passed over or taken in.
enum Seen<'a> {
    /// `null`.
    Null,
    /// A value that is its own text, such as a number.
    Value(Value),
    /// The content of a string.
    Text(Cow<'a, [u8]>),
}

impl<'a> Walker<'a> {
    pub fn new(text: &'a [u8], paths_left: usize) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            fits: true,
            paths_left,
            too_many_paths: false,
        }
    }

    /// Goes on with a shorter part of the same text.
    pub fn narrow(&mut self, text: &'a [u8], at: usize) {
        self.text = text;
        self.at = at;
    }

    pub fn fault(&self, reason: &'static str) -> Fault {
        Fault {
            at: self.at,
            reason,
        }
    }

    /// The next byte that is no white space, not taken.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(*byte),
            }
        }
        None
    }

    /// Takes one row: an object.
    pub fn row(
        &mut self,
        shape: Option<&mut JsonShape>,
        builder: Option<&mut Builder>,
    ) -> Walked<()> {
        match self.peek() {
            Some(b'{') => self.value(shape, builder),
            Some(_) => Err(self.fault("a row has to be a JSON object")),
            None => Err(self.fault("the text ends where a row should be")),
        }
    }

    fn value(
        &mut self,
        shape: Option<&mut JsonShape>,
        builder: Option<&mut Builder>,
    ) -> Walked<()> {
        match self.peek() {
            Some(b'{') => self.nested(Kinds::OBJECT, shape, builder),
            Some(b'[') => self.nested(Kinds::LIST, shape, builder),
            _ => self.scalar(shape, builder),
        }
    }

    fn nested(
        &mut self,
        kind: Kinds,
        mut shape: Option<&mut JsonShape>,
        builder: Option<&mut Builder>,
    ) -> Walked<()> {
        let start = self.at;
        if self.depth == DEPTH_MAX {
            return Err(self.fault("nested deeper than 64 levels"));
        }
        self.depth += 1;
        if let Some(shape) = &mut shape {
            shape.note(kind);
        }
        let shape = shape.filter(|shape| !shape.is_text());
        match builder {
            Some(Builder {
                data: Data::Text { open, .. },
                ..
            }) if *open && kind == Kinds::LIST => {
                self.fits = false;
                self.children(kind, shape, None)?;
            }
            Some(builder) if matches!(builder.data, Data::Text { .. }) => {
                let empty = self.children(kind, shape, None)?;
                self.fits &= empty || !matches!(builder.data, Data::Text { open: true, .. });
                builder.append_text(&self.text[start..self.at]);
            }
            Some(builder) if builder_kind(builder) == kind => {
                self.children(kind, shape, Some(builder))?;
                builder.append_nested();
            }
            Some(builder) => {
                self.fits = false;
                builder.append_null();
                self.children(kind, shape, None)?;
            }
            None => {
                self.children(kind, shape, None)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Takes the fields or elements; says whether there were none.
    fn children(
        &mut self,
        kind: Kinds,
        shape: Option<&mut JsonShape>,
        builder: Option<&mut Builder>,
    ) -> Walked<bool> {
        self.at += 1;
        if kind == Kinds::OBJECT {
            self.fields(shape, builder)
        } else {
            self.elements(shape, builder)
        }
    }

    fn fields(
        &mut self,
        mut shape: Option<&mut JsonShape>,
        mut builder: Option<&mut Builder>,
    ) -> Walked<bool> {
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(true);
        }
        let (mut shape_hint, mut field_hint) = (0, 0);
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected a field name in quotes"));
            }
            let key_at = self.at;
            let key = self.string()?;
            let key = std::str::from_utf8(&key).map_err(|_| self.fault("invalid UTF-8"))?;
            self.expect(b':', "expected `:` after a field name")?;
            let field_shape = match &mut shape {
                Some(shape) => self.field_shape(shape, key, &mut shape_hint)?,
                None => None,
            };
            let field = match &mut builder {
                Some(builder) => self.field_builder(builder, key, key_at, &mut field_hint)?,
                None => None,
            };
            self.value(field_shape, field)?;
            if !self.more(b'}', "expected `,` or `}` after a field")? {
                return Ok(false);
            }
        }
    }

    fn field_shape<'s>(
        &mut self,
        shape: &'s mut JsonShape,
        key: &str,
        hint: &mut usize,
    ) -> Walked<Option<&'s mut JsonShape>> {
        let (field, new, position) = shape.field(key, *hint);
        *hint = position + 1;
        if new {
            self.spend_path()?;
        }
        Ok(Some(field))
    }

    fn spend_path(&mut self) -> Walked<()> {
        let Some(left) = self.paths_left.checked_sub(1) else {
            self.too_many_paths = true;
            return Err(self.fault("too many columns"));
        };
        self.paths_left = left;
        Ok(())
    }

    fn field_builder<'b>(
        &mut self,
        builder: &'b mut Builder,
        key: &str,
        key_at: usize,
        hint: &mut usize,
    ) -> Walked<Option<&'b mut Builder>> {
        let row = builder.len();
        let Data::Struct { names, fields } = &mut builder.data else {
            return Ok(None);
        };
        let Some(position) = names.find(key, *hint) else {
            self.fits = false;
            return Ok(None);
        };
        *hint = position + 1;
        let field = &mut fields[position];
        if field.len() > row {
            return Err(Fault {
                at: key_at,
                reason: "a field name stands twice in one object",
            });
        }
        field.pad_to(row);
        Ok(Some(field))
    }

    fn elements(
        &mut self,
        mut shape: Option<&mut JsonShape>,
        mut builder: Option<&mut Builder>,
    ) -> Walked<bool> {
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(true);
        }
        loop {
            let item = match &mut builder {
                Some(Builder {
                    data: Data::List { item, .. },
                    ..
                }) => Some(&mut **item),
                _ => None,
            };
            let item_shape = shape.as_mut().map(|shape| shape.item());
            self.value(item_shape, item)?;
            if !self.more(b']', "expected `,` or `]` after an element")? {
                return Ok(false);
            }
        }
    }

    /// Takes a comma (more follows) or the closing byte.
    fn more(&mut self, close: u8, reason: &'static str) -> Walked<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.fault(reason)),
        }
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Walked<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.fault(reason))
    }

    fn scalar(
        &mut self,
        shape: Option<&mut JsonShape>,
        builder: Option<&mut Builder>,
    ) -> Walked<()> {
        let start = self.at;
        let seen = match self.text.get(self.at) {
            Some(b'"') => Seen::Text(self.string()?),
            Some(b'n') => self.literal(b"null", Seen::Null)?,
            Some(b't') => self.literal(b"true", Seen::Value(Value::Bool(true)))?,
            Some(b'f') => self.literal(b"false", Seen::Value(Value::Bool(false)))?,
            Some(b'-' | b'0'..=b'9') => Seen::Value(self.number()?),
            Some(_) => return Err(self.fault("expected a value")),
            None => return Err(self.fault("the text ends where a value should be")),
        };
        let value = match &seen {
            Seen::Null => {
                if let Some(builder) = builder {
                    builder.append_null();
                }
                return Ok(());
            }
            Seen::Value(value) => *value,
            Seen::Text(text) if needs_kind(shape.as_deref(), builder.as_deref()) => {
                text_value(text)
            }
            Seen::Text(_) => Value::Text,
        };
        if let Some(shape) = shape {
            shape.note(value.kind());
        }
        let Some(builder) = builder else {
            return Ok(());
        };
        if let Data::Text { open, .. } = builder.data {
            self.fits &= !open || value == Value::Text;
            match &seen {
                Seen::Text(text) => builder.append_text(text),
                _ => builder.append_text(&self.text[start..self.at]),
            }
        } else {
            self.fits &= builder.append(value);
        }
        Ok(())
    }

    fn literal(&mut self, word: &[u8], seen: Seen<'a>) -> Walked<Seen<'a>> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.fault("expected a value"));
        }
        self.at += word.len();
        Ok(seen)
    }

    /// A number. One that 64 bits do not hold counts as text, so that its digits stay.
    fn number(&mut self) -> Walked<Value> {
        let start = self.at;
        self.at += usize::from(self.text[self.at] == b'-');
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.fault("expected a digit")),
        }
        let mut whole = true;
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
            whole = false;
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.text.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
            whole = false;
        }
        let text = &self.text[start..self.at];
        if !whole {
            return Ok(parse_float(text).map_or(Value::Text, Value::Float));
        }
        Ok(match parse_int(text) {
            Some(value) => Value::Int(value),
            None if text == b"-0" => Value::Float(-0.0),
            None => Value::Text,
        })
    }

    fn digits(&mut self) -> Walked<()> {
        let start = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.fault("expected a digit"));
        }
        Ok(())
    }

    /// Takes a string and gives its content.
    fn string(&mut self) -> Walked<Cow<'a, [u8]>> {
        let open = self.at;
        self.at += 1;
        let start = self.at;
        let mut decoded: Option<Vec<u8>> = None;
        let mut plain_from = start;
        loop {
            match self.text.get(self.at) {
                None => {
                    return Err(Fault {
                        at: open,
                        reason: "a string is never closed",
                    });
                }
                Some(b'"') => break,
                Some(b'\\') => {
                    let out = decoded.get_or_insert_default();
                    out.extend_from_slice(&self.text[plain_from..self.at]);
                    let character = self.escape()?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    plain_from = self.at;
                }
                Some(0..=0x1F) => return Err(self.fault("a control character in a string")),
                Some(_) => self.at += 1,
            }
        }
        let rest = &self.text[plain_from..self.at];
        self.at += 1;
        Ok(match decoded {
            None => Cow::Borrowed(rest),
            Some(mut out) => {
                out.extend_from_slice(rest);
                Cow::Owned(out)
            }
        })
    }

    fn escape(&mut self) -> Walked<char> {
        let fault = self.fault("an unknown escape in a string");
        let letter = *self.text.get(self.at + 1).ok_or(fault)?;
        self.at += 2;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(fault),
            _ => return Err(fault),
        })
    }

    fn unicode_escape(&mut self, fault: Fault) -> Walked<char> {
        let high = self.hex().ok_or(fault)?;
        let code = if (0xD800..0xDC00).contains(&high) {
            if !self.text[self.at..].starts_with(b"\\u") {
                return Err(fault);
            }
            self.at += 2;
            let low = self
                .hex()
                .filter(|low| (0xDC00..0xE000).contains(low))
                .ok_or(fault)?;
            0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
        } else {
            high
        };
        char::from_u32(code).ok_or(fault)
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, digit| {
            Some(code * 16 + char::from(*digit).to_digit(16)?)
        })
    }
}

fn builder_kind(builder: &Builder) -> Kinds {
    match builder.data {
        Data::Struct { .. } => Kinds::OBJECT,
        Data::List { .. } => Kinds::LIST,
        _ => Kinds::NONE,
    }
}

/// Whether it matters that a string looks like a date or a time.
fn needs_kind(shape: Option<&JsonShape>, builder: Option<&Builder>) -> bool {
    shape.is_some_and(|shape| !shape.is_text())
        || builder.is_some_and(|builder| !matches!(builder.data, Data::Text { open: false, .. }))
}

/// What a JSON string stands for: a date, a time, or text. A number in quotes is text.
fn text_value(text: &[u8]) -> Value {
    if text.len() < 10 || text[4] != b'-' {
        return Value::Text;
    }
    match classify(text) {
        value @ (Value::Date(_) | Value::Naive(_) | Value::Zoned(_)) => value,
        _ => Value::Text,
    }
}
