//! The one public error.

use std::fmt;

use crate::id::NodeId;

/// What went wrong, as far as a program can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument, option or text form is not acceptable.
    InvalidInput,
    /// The holders answered and proved that it is not there.
    NotFound,
    /// Too few holders or nodes answered; nothing is known to be lost.
    Unavailable,
    /// A put did not reach the margin it was asked for; nothing was stored that a reader will see.
    NotStored,
    /// A commit may or may not have happened; the operation can be repeated.
    OutcomeUnknown,
    /// The deadline passed.
    TimedOut,
    /// Bytes failed their check, and no good copy was left to use instead.
    Corrupt,
    /// The capability, mesh key or file permission does not allow this.
    AccessDenied,
    /// A version, cipher suite or erasure code that this build does not know.
    Unsupported,
    /// A size or count is over its limit.
    LimitExceeded,
    /// The store is full, or too full to write (see the reserve).
    StorageFull,
    /// Another process has this directory open.
    Locked,
    /// The store met a failed sync or a corrupt page and takes no more writes until it is reopened.
    Poisoned,
    /// The output is already there.
    AlreadyExists,
    /// The caller's own reader or stream failed; its error is the source.
    SourceFailed,
    /// The source changed while it was read, a file that shrank for instance.
    SourceChanged,
    /// The operating system refused an operation on a file or socket.
    Io,
    /// A peer sent something that breaks the protocol.
    Protocol,
    /// A limit on concurrent work was reached; try again later.
    Busy,
    /// The mesh, store or transport was shut down.
    Closed,
}

/// The error of every public function of datamesh.
///
/// One line of lower-case text with numbers and the next step; [`kind`](Self::kind) for programs;
/// `source()` for the cause, which the text never repeats.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    subject: Option<String>,
    node: Option<NodeId>,
    have: Option<usize>,
    need: Option<usize>,
    missing: Vec<NodeId>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of every fallible function of datamesh.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind with one line of text: lower case, numbers, the next step.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            subject: None,
            node: None,
            have: None,
            need: None,
            missing: Vec::new(),
            source: None,
        }))
    }

    /// An error made of an operating-system error, which becomes its source.
    ///
    /// The kind follows the cause: no space, no permission, already there, or plain input/output.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::StorageFull,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::AccessDenied,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        };
        Self::new(kind, message).with_source(source)
    }

    /// Names the verb that failed, `put` for instance. The outermost call wins.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Names the object, extent, shard or file that it is about.
    #[must_use]
    pub fn with_subject(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject = Some(subject.to_string());
        self
    }

    /// Names the node that it is about.
    #[must_use]
    pub fn with_node(mut self, node: NodeId) -> Self {
        self.0.node = Some(node);
        self
    }

    /// Says how many answers there were, how many were needed, and who did not answer.
    #[must_use]
    pub fn with_counts(mut self, have: usize, need: usize, missing: Vec<NodeId>) -> Self {
        self.0.have = Some(have);
        self.0.need = Some(need);
        self.0.missing = missing;
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, as far as a program can act on it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Unavailable
                | ErrorKind::NotStored
                | ErrorKind::OutcomeUnknown
                | ErrorKind::TimedOut
                | ErrorKind::Busy
        )
    }

    /// The verb that failed.
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The object, extent, shard or file that it is about.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// The node that it is about.
    pub fn node(&self) -> Option<NodeId> {
        self.0.node
    }

    /// How many answers, shards or holders there were.
    pub fn have(&self) -> Option<usize> {
        self.0.have
    }

    /// How many answers, shards or holders were needed.
    pub fn need(&self) -> Option<usize> {
        self.0.need
    }

    /// The nodes that did not answer, or answered wrongly.
    pub fn missing(&self) -> &[NodeId] {
        &self.0.missing
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, operation, subject, node, have, need, missing, .. } = &*self.0;
        if let Some(operation) = operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(message)?;
        if let Some(subject) = subject {
            write!(f, " ({subject})")?;
        }
        if let (Some(have), Some(need)) = (have, need) {
            write!(f, "; have {have}, need {need}")?;
        }
        if let Some(node) = node {
            write!(f, "; node {}", node.fmt_short())?;
        }
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(NodeId::fmt_short).collect();
            write!(f, "; missing {}", names.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_with_numbers() {
        let node = NodeId::from_bytes([7; 32]);
        let error = Error::new(ErrorKind::Unavailable, "too few shards; start a holder and retry")
            .with_operation("get")
            .with_counts(3, 4, vec![node]);
        assert_eq!(
            error.to_string(),
            format!(
                "get: too few shards; start a holder and retry; have 3, need 4; missing {}",
                node.fmt_short()
            )
        );
        assert!(error.is_retryable());
    }
}
