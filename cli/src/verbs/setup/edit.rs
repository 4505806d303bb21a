// SPDX-License-Identifier: MIT OR Apache-2.0
//! A change of one text file: what it was and what it became. Taking it back is pure; reading and writing are below.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::MAX_FILE;
use crate::failure::Failure;

/// What a file was without potluck, and what it is with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edit {
    /// The file.
    pub(super) path: PathBuf,
    /// Its text before; none when there was no such file.
    pub(super) before: Option<String>,
    /// Its text afterwards.
    pub(super) after: String,
}

/// The lines in which two texts differ, from the first to the last of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hunk<'a> {
    /// Lines of the one, with their ends.
    pub(super) old: Vec<&'a str>,
    /// Lines of the other.
    pub(super) new: Vec<&'a str>,
    /// How many lines stand before them.
    above: usize,
}

impl<'a> Hunk<'a> {
    /// What differs.
    pub(super) fn between(old: &'a str, new: &'a str) -> Self {
        let (mut old, mut new): (Vec<_>, Vec<_>) =
            (old.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
        let above = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
        (old, new) = (old.split_off(above), new.split_off(above));
        while old.last().is_some_and(|last| new.last() == Some(last)) {
            old.pop();
            new.pop();
        }
        Self { old, new, above }
    }
}

impl Edit {
    /// Whether the file is another one afterwards.
    pub(super) fn changes_anything(&self) -> bool {
        self.before.as_deref() != Some(self.after.as_str())
    }

    /// What the file is to be without the edit, if it is `now` this. Nothing when that cannot be told, since the lines
    /// that were written are no longer there, or stand there more than once.
    #[expect(clippy::option_option, reason = "a file that is to go is one of the answers")]
    pub(super) fn taken_back(&self, now: Option<&str>) -> Option<Option<String>> {
        if now == Some(self.after.as_str()) || now == self.before.as_deref() {
            return Some(self.before.clone());
        }
        let (now, before) = (now?, self.before.as_deref().unwrap_or_default());
        let Hunk { old, new, above } = Hunk::between(before, &self.after);
        let lines: Vec<_> = now.split_inclusive('\n').collect();
        if new.is_empty() {
            // Lines had been taken away. Where they were is only known when nothing else was changed above.
            let kept = self.after.split_inclusive('\n').take(above).eq(lines.iter().copied().take(above));
            return kept.then(|| Some([&lines[..above], &old, &lines[above..]].concat().concat()));
        }
        let mut places = (0..=lines.len().saturating_sub(new.len()))
            .filter(|at| lines.get(*at..at + new.len()) == Some(new.as_slice()));
        let (at, None) = (places.next()?, places.next()) else { return None };
        let text = [&lines[..at], &old, &lines[at + new.len()..]].concat().concat();
        // A file that was made for these lines, and holds others by now, stays.
        Some(Some(text))
    }

    /// The lines that were written, for people.
    pub(super) fn lines(&self) -> String {
        let new = Hunk::between(self.before.as_deref().unwrap_or_default(), &self.after).new;
        new.iter().map(|line| format!("  {}\n", line.trim_end())).collect::<String>().trim_end().to_owned()
    }
}

/// The text of a file, or nothing when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, Failure> {
    let failed = |why: String| Failure::failed(format!("cannot read {}: {why}", path.display()));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed("it is larger than such files are".to_owned()));
    }
    Ok(Some(text))
}

/// Replaces a file in one step. A link stays one; the mode stays what it was.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let replace = || {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = real.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let mode = fs::metadata(&real).map(|metadata| metadata.permissions());
        let mut file = tempfile::Builder::new();
        let new = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        file.prefix(".potluck-").permissions(mode.as_ref().map_or(new, Clone::clone));
        let mut file = file.tempfile_in(folder)?;
        if let Ok(mode) = mode {
            // What the umask took when it was made.
            file.as_file().set_permissions(mode)?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&real).map_err(|error| error.error)?;
        Ok::<_, io::Error>(())
    };
    replace().map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(before: Option<&str>, after: &str) -> Edit {
        Edit { path: "x".into(), before: before.map(str::to_owned), after: after.to_owned() }
    }

    #[test]
    fn what_nobody_touched_is_put_back_as_it_was() {
        let edit = edit(Some("a\nb"), "a\nx\nb\n");
        assert_eq!(edit.taken_back(Some("a\nx\nb\n")), Some(Some("a\nb".to_owned())));
        assert_eq!(edit.taken_back(Some("a\nb")), Some(Some("a\nb".to_owned())), "it is so already");
    }

    #[test]
    fn a_file_that_was_made_goes_unless_it_has_become_somebody_s() {
        let edit = edit(None, "x\n");
        assert_eq!(edit.taken_back(Some("x\n")), Some(None));
        assert_eq!(edit.taken_back(Some("x\nmine\n")), Some(Some("mine\n".to_owned())));
        assert_eq!(edit.taken_back(None), Some(None));
    }

    #[test]
    fn only_what_was_written_is_taken_out_of_what_others_have_changed() {
        let edit = edit(Some("a\nold\nb\n"), "a\nnew\nmore\nb\n");
        assert_eq!(edit.taken_back(Some("0\nnew\nmore\nb\nc\n")), Some(Some("0\nold\nb\nc\n".to_owned())));
        assert_eq!(edit.taken_back(Some("a\nnew\nother\nb\n")), None, "half of it is somebody's");
        assert_eq!(edit.taken_back(Some("new\nmore\nnew\nmore\n")), None, "which of them?");
        assert_eq!(edit.taken_back(None), None);
    }

    #[test]
    fn lines_that_were_taken_away_come_back_where_they_were() {
        let edit = edit(Some("a\nold\nb\n"), "a\nb\n");
        assert_eq!(edit.taken_back(Some("a\nb\nc\n")), Some(Some("a\nold\nb\nc\n".to_owned())));
        assert_eq!(edit.taken_back(Some("z\nb\n")), None);
        assert_eq!(edit.taken_back(Some("")), None);
    }

    #[test]
    fn a_link_stays_a_link_and_a_mode_a_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "one").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, "two").unwrap();
        assert_eq!(read(&real).unwrap().as_deref(), Some("two"));
        assert!(link.is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
        fs::write(&real, vec![b'x'; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
        assert!(read(&link).is_err());
    }
}
