// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that a client has open and the daemon reads or writes in its stead: bytes that pass through the socket are
//! copied four times and cost more than storing them does.
//!
//! The client says where the file lies and which one it is. The daemon opens what lies there, and goes on only if that is
//! the same file: where the two see different files, being in different containers or of different users, the client
//! finds that out by the answer and sends the bytes.

use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use potluck_protocol::codec::Bytes;
use potluck_protocol::control::FileAt;
use rustix::fs::{FileType, Mode, OFlags};

use crate::cache::CacheError;

/// What the daemon is to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

/// Says which file this is; nothing when that cannot be said.
pub(super) fn describe(file: &File, path: &Path) -> Option<FileAt> {
    let stat = rustix::fs::fstat(file).ok()?;
    let path = std::path::absolute(path).ok()?;
    Some(FileAt {
        path: Bytes::new(path.into_os_string().into_vec())?,
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// Opens the file that a client has open; gives its path as well. Blocks.
///
/// # Errors
/// [`CacheError::Usage`] when it cannot be opened here, or is another one here.
pub(super) fn open(at: &FileAt, to: Use) -> Result<(File, PathBuf), CacheError> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&at.path));
    let refused = |why: &str| CacheError::Usage(format!("the daemon {why} {}", path.display()));
    if !path.is_absolute() {
        return Err(refused("wants an absolute path, not"));
    }
    let access = if to == Use::Read { OFlags::RDONLY } else { OFlags::WRONLY };
    // Opening must wait for nobody, whatever lies there.
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file =
        File::from(opened.map_err(|error| refused(&format!("cannot open ({})", io::Error::from(error))))?);
    let stat = rustix::fs::fstat(&file).map_err(|_| refused("cannot look at"))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || (stat.st_dev, stat.st_ino) != (at.device, at.inode) {
        return Err(refused("sees another file at"));
    }
    Ok((file, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_file_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        std::fs::write(&path, "content").unwrap();
        std::fs::write(&other, "else").unwrap();
        let at = describe(&File::open(&path).unwrap(), &path).unwrap();
        assert_eq!(open(&at, Use::Read).unwrap().1, path);
        open(&at, Use::Write).unwrap();
        let refused = |at: &FileAt| matches!(open(at, Use::Read), Err(CacheError::Usage(_)));
        let bytes = |path: &Path| Bytes::new(path.as_os_str().as_bytes().to_vec()).unwrap();
        assert!(refused(&FileAt { path: bytes(&other), ..at.clone() }), "another file");
        assert!(refused(&FileAt { inode: at.inode + 1, ..at.clone() }));
        assert!(refused(&FileAt { device: at.device + 1, ..at.clone() }));
        assert!(refused(&FileAt { path: bytes(Path::new("file")), ..at.clone() }), "a relative path");
        assert!(refused(&FileAt { path: bytes(&folder.path().join("none")), ..at.clone() }));
        let dir = describe(&File::open(folder.path()).unwrap(), folder.path()).unwrap();
        assert!(refused(&dir), "a folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let stat = rustix::fs::stat(&pipe).unwrap();
        let at = FileAt { path: bytes(&pipe), device: stat.st_dev, inode: stat.st_ino };
        assert!(refused(&at), "nobody writes to the pipe, and that is not waited for");
    }
}
