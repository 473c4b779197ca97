//! Lines of a file from any offset on, with a bound on the memory for a line.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use super::line::MAX_LINE_BYTES;

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads a file from a place on. Readers of one file do not disturb each other.
struct FileReader<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Where a line begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LineStart {
    /// Bytes before it.
    pub(super) offset: u64,
    /// Lines before it.
    pub(super) before: u64,
}

impl LineStart {
    /// Its number, from 1.
    pub(super) const fn number(self) -> u64 {
        self.before + 1
    }
}

/// A line that was read.
pub(super) struct RawLine<'a> {
    pub(super) start: LineStart,
    /// What it says, without its end; `None` when it is too long.
    pub(super) text: Option<&'a [u8]>,
}

/// The lines of a file.
pub(super) struct Lines<'a> {
    reader: BufReader<FileReader<'a>>,
    next: LineStart,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// From here on.
    pub(super) fn from(file: &'a File, next: LineStart) -> Self {
        let reading = FileReader { file, offset: next.offset };
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, reading), next, line: Vec::new() }
    }

    /// Where the next line begins, or the file ends.
    pub(super) const fn next_begin(&self) -> LineStart {
        self.next
    }

    /// The next line; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        let start = self.next;
        self.line.clear();
        let mut bytes =
            self.reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut self.line)?;
        if bytes == 0 {
            return Ok(None);
        }
        let ended = self.line.pop_if(|last| *last == b'\n').is_some();
        let too_long = self.line.len() > MAX_LINE_BYTES;
        if too_long && !ended {
            bytes += self.reader.skip_until(b'\n')?;
        }
        self.next = LineStart { offset: start.offset + bytes as u64, before: start.before + 1 };
        Ok(Some(RawLine { start, text: (!too_long).then_some(self.line.as_slice()) }))
    }
}
