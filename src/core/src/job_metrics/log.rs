//! What a job's log says about its times and its exit code, read in pieces of any size and in constant memory.

use jiff::Timestamp;

/// What is kept of a line; what decides stands at its beginning.
const LINE_LIMIT: usize = 64 << 10;

/// Length of `2024-09-11T21:00:01.1234567Z`, as each line of a log begins.
const STAMP: usize = 28;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const ERROR: &[u8] = b"##[error]";
const EXIT: &[u8] = b"##[error]Process completed with exit code ";
const QUEUED: &[u8] = b"Waiting for a runner to pick up this job...";
const STARTED: &[u8] = b"Job is about to start running on the runner:";

/// What a log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobLog {
    /// When the job began to wait for a runner.
    pub queued_at: Option<Timestamp>,
    /// When a runner took it.
    pub started_at: Option<Timestamp>,
    /// Its last ordinary line.
    pub completed_at: Option<Timestamp>,
    /// The last exit code that it names.
    pub exit_code: Option<i64>,
}

/// Reads a log piece by piece.
#[derive(Clone, Debug, Default)]
pub struct LogReader {
    line: Vec<u8>,
    log: JobLog,
}

impl LogReader {
    /// Takes the next piece.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (head, tail) = piece.split_at(end);
            self.append(head);
            self.end_line();
            piece = tail.get(1..).unwrap_or_default();
        }
        self.append(piece);
    }

    /// What the log says, the last line included even if nothing ends it.
    pub fn finish(mut self) -> JobLog {
        self.end_line();
        self.log
    }

    fn append(&mut self, part: &[u8]) {
        let room = LINE_LIMIT.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room).unwrap_or(part));
    }

    fn end_line(&mut self) {
        if let Some((at, text)) = split(&self.line) {
            self.log.note(at, text);
        }
        self.line.clear();
    }
}

impl JobLog {
    fn note(&mut self, at: Timestamp, text: &[u8]) {
        if text.starts_with(ERROR) {
            self.exit_code = exit_code(text).or(self.exit_code);
        } else if text.starts_with(QUEUED) {
            self.queued_at = Some(at);
        } else if text.starts_with(STARTED) {
            self.started_at = Some(at);
        } else {
            self.completed_at = Some(at);
        }
    }
}

/// Time and text of a line that has both.
fn split(line: &[u8]) -> Option<(Timestamp, &[u8])> {
    // The first line of a log may begin with a mark.
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (stamp, rest) = line.split_at_checked(STAMP)?;
    let (space, text) = rest.split_first()?;
    if !space.is_ascii_whitespace() || text.is_empty() {
        return None;
    }
    let shape = stamp
        .iter()
        .zip(b"0000-00-00T00:00:00.0000000Z")
        .all(|(have, want)| match want {
            b'0' => have.is_ascii_digit(),
            other => have == other,
        });
    let stamp = std::str::from_utf8(stamp).ok().filter(|_| shape)?;
    Some((stamp.parse().ok()?, text))
}

/// The number in `##[error]Process completed with exit code 137.`, of any length. (Upstream reads a single digit.)
fn exit_code(text: &[u8]) -> Option<i64> {
    let at = text.windows(EXIT.len()).position(|window| window == EXIT)?;
    let rest = text.get(at + EXIT.len()..)?;
    let end = rest.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}
