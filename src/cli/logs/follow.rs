//! Reads a log file, and goes on in the new one after a rotation.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::Record;

/// How long to wait for more. A person does not see it, and the file's directory needs no watch that a rotation could
/// break.
const POLL: Duration = Duration::from_millis(100);

/// A log file that is being written and rotated.
#[derive(Debug)]
pub(in crate::cli) struct Follower {
    path: PathBuf,
    file: BufReader<File>,
    /// The beginning of a line that is not written to its end.
    partial: Vec<u8>,
}

impl Follower {
    pub(in crate::cli) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: BufReader::new(File::open(path)?), partial: Vec::new() })
    }

    /// The next record, or `None` when there is none yet.
    pub(in crate::cli) fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            self.file.read_until(b'\n', &mut self.partial)?;
            if self.partial.pop_if(|byte| *byte == b'\n').is_some() {
                let record = Record::parse(&self.partial);
                self.partial.clear();
                return Ok(Some(record));
            }
            if !self.rotated()? {
                return Ok(None);
            }
        }
    }

    /// Turns to the file that now has the path, if it is another than the one being read, once that is read to its
    /// end. The writer may still be at the old one for a moment: it writes on until it is told to reopen.
    fn rotated(&mut self) -> io::Result<bool> {
        let now = match std::fs::metadata(&self.path) {
            Ok(now) => now,
            // Between the rename and the new file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let ours = self.file.get_ref().metadata()?;
        if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) {
            return Ok(false);
        }
        // The new file exists, so the writer has turned to it and the old one is complete; what came to it since the
        // last read is read before.
        let mut rest = Vec::new();
        self.file.read_until(b'\n', &mut rest)?;
        if !rest.is_empty() {
            self.file.seek_relative(-(rest.len() as i64))?;
            return Ok(true);
        }
        self.file = BufReader::new(File::open(&self.path)?);
        Ok(true)
    }

    pub(in crate::cli) async fn wait(&self) {
        tokio::time::sleep(POLL).await;
    }

    /// Goes to where the last `lines` lines begin, reading blocks from the end.
    pub(in crate::cli) fn skip_to_last(&mut self, lines: usize) -> io::Result<()> {
        const BLOCK: u64 = 64 << 10;
        let file = self.file.get_mut();
        let end = file.seek(SeekFrom::End(0))?;
        let mut position = end;
        let mut found = 0;
        while position > 0 {
            let start = position.saturating_sub(BLOCK);
            let mut block = vec![0; (position - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            io::Read::read_exact(file, &mut block)?;
            for (offset, byte) in block.iter().enumerate().rev() {
                let at = start + offset as u64;
                // The newline that ends the file ends its last line and begins none.
                if *byte == b'\n' && at + 1 != end {
                    found += 1;
                    if found == lines {
                        return self.file.seek(SeekFrom::Start(at + 1)).map(drop);
                    }
                }
            }
            position = start;
        }
        let start = if lines == 0 { end } else { 0 };
        self.file.seek(SeekFrom::Start(start)).map(drop)
    }
}
