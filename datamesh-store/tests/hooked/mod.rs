//! Files of the system with a look at each call, which may wait there or fail.
#![allow(dead_code, reason = "not every test looks at every call")]

use std::fmt;
use std::io;
use std::sync::Arc;

use datamesh_store::disk::files::{Files, OsFiles, Space, VolumeFile};

/// What the store asks of its volumes.
pub(crate) enum Call<'a> {
    Append,
    Sync,
    Read { name: &'a str, offset: u64 },
    Remove(&'a str),
}

/// Called before each call, which fails where this does.
pub(crate) type Hook = Arc<dyn Fn(&Call<'_>) -> io::Result<()> + Send + Sync>;

pub(crate) struct Hooked {
    pub(crate) inner: OsFiles,
    pub(crate) hook: Hook,
}

struct HookedFile {
    inner: Arc<dyn VolumeFile>,
    name: String,
    hook: Hook,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooked({:?})", self.inner)
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookedFile({})", self.name)
    }
}

impl Hooked {
    fn wrap(&self, name: &str, inner: Arc<dyn VolumeFile>) -> Arc<dyn VolumeFile> {
        Arc::new(HookedFile { inner, name: name.to_owned(), hook: Arc::clone(&self.hook) })
    }
}

impl Files for Hooked {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        Ok(self.wrap(name, self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        Ok(self.wrap(name, self.inner.open(name)?))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        (self.hook)(&Call::Remove(name))?;
        self.inner.remove(name)
    }
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.inner.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl VolumeFile for HookedFile {
    fn append(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        (self.hook)(&Call::Append)?;
        self.inner.append(offset, parts)
    }
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        (self.hook)(&Call::Read { name: &self.name, offset })?;
        self.inner.read_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(&Call::Sync)?;
        self.inner.sync_data()
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }
}
