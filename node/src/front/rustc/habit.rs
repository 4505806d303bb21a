// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a linker reads of the system, as it was seen when one was last called in this way.
//!
//! A linker asks for some five hundred names, nearly all of them the same whatever it links: its own parts, the system's
//! libraries, and every place where these are not. To be stopped at each takes longer than half of what it does. So what
//! was seen once is remembered under the *shape* of the call: its arguments and variables, but for what lies in the build's
//! own folder. A linker that is called in the same shape, and finds each of those names as it was, asks for the same names
//! again and for those of its inputs: that is its report, and nobody watches it.
//!
//! That would not be so where what it links sends it to other files; so inputs are looked through for whatever could, and
//! such a link is watched as ever. So is one with an option that is not known to name no file, or with more to link than
//! is looked through faster than it is watched.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::place::target_folder;
use super::reads::is_idle;
use super::toolchain::{LINKER_ENV, Memory};
use super::walk::Stamp;
use super::watch::seen::{FOLDER, Seen, Touched};
use super::watch::stamp;
use super::{Call, text};
use crate::observe::clock;

/// Most bytes of all inputs.
const MAX_INPUTS: u64 = 16 << 20;
/// How many shapes are remembered at most: each has one place, which it takes from another.
const PLACES: u8 = 32;
/// Where objects name libraries to be linked with them, and where they hold code for a linker's plugin to compile.
const ELSEWHERE: [&str; 2] = [".deplibs", ".gnu.lto_"];
/// The option by which a linker is given a text of the compiler's about symbols.
const SYMBOLS: &str = "-Wl,--version-script=";
/// Options that name no file.
const PLAIN: &[&str] = &[
    "-Wl,--as-needed",
    "-Wl,--eh-frame-hdr",
    "-Wl,--end-group",
    "-Wl,--gc-sections",
    "-Wl,--no-as-needed",
    "-Wl,--no-undefined-version",
    "-Wl,--no-whole-archive",
    "-Wl,--start-group",
    "-Wl,--strip-all",
    "-Wl,--strip-debug",
    "-Wl,--whole-archive",
    "-Wl,-Bdynamic",
    "-Wl,-Bstatic",
    "-m64",
    "-no-pie",
    "-nodefaultlibs",
    "-nostartfiles",
    "-pie",
    "-rdynamic",
    "-shared",
    "-static",
    "-static-pie",
];
/// The same with a value: a number, or a name without a folder.
const PLAIN_WITH_VALUE: &[&str] = &["-Wl,-O", "-Wl,--build-id=", "-Wl,--hash-style=", "-fuse-ld=", "-l"];
/// Variables of the build and not of its linker begin in this way.
const OTHERS: &[&str] = &["CARGO", "DEP_", "MAKEFLAGS", "MFLAGS", "OUT_DIR", "POTLUCK_", "RUSTC", "RUST_"];
/// Where programs look for the libraries that they are loaded with.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// How a linker is called.
#[derive(Debug)]
pub(super) struct Shape {
    name: String,
    /// What has this name: all that is said to the linker and is not the build's own.
    said: String,
    /// cargo's folder.
    top: PathBuf,
    /// What is linked of what lies there.
    inputs: Vec<PathBuf>,
    /// Folders there in which something may be looked for.
    folders: BTreeSet<PathBuf>,
    output: PathBuf,
}

/// What was seen of a linker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Habit {
    shape: String,
    names: BTreeMap<String, Touched>,
    /// What it looked for in a build's own folders and did not find.
    sought: BTreeSet<PathBuf>,
    /// The same where it was called, as names without a folder in the system's linker scripts make it do.
    near: BTreeSet<PathBuf>,
}

impl Shape {
    /// Nothing where it is not certain what all of a call means.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let args: Vec<_> = call.args.iter().skip(1).map(|arg| arg.to_str()).collect::<Option<_>>()?;
        let at = args.iter().position(|arg| *arg == "-o")?;
        let output = PathBuf::from(args.get(at + 1)?);
        let top = target_folder(output.parent().filter(|_| output.is_absolute())?)?;
        let (inputs, folders) = (Vec::new(), output.parent().map(Path::to_path_buf).into_iter().collect());
        let (name, said) = Default::default();
        let mut shape = Self { name, said, top, inputs, folders, output };
        let mut said = shape.arguments(&args)?;
        said.extend(shape.variables(call)?);
        shape.said = said.join("\0");
        shape.name = blake3::hash(shape.said.as_bytes()).to_string();
        Some(shape)
    }

    /// The arguments, without what of them is the build's own.
    fn arguments(&mut self, args: &[&str]) -> Option<Vec<String>> {
        let mut said = Vec::new();
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let (option, path) = match *word {
                option @ ("-o" | "-L") => (option, *words.next()?),
                word if word.starts_with(SYMBOLS) => word.split_at(SYMBOLS.len()),
                word if word.starts_with("-B") => word.split_at(2),
                word if word.starts_with('-') => {
                    said.extend(is_plain(word).then(|| word.to_owned()));
                    is_plain(word).then_some(())?;
                    continue;
                }
                path => ("", path),
            };
            match (option, self.is_own(path)?) {
                ("-L", true) => {
                    // Where there is none, nothing was looked for in any.
                    said.push(option.to_owned());
                    self.folders.insert(path.into());
                }
                ("", true) if !is_object(Path::new(path)) => return None,
                ("" | SYMBOLS, true) => {
                    self.folders.extend(Path::new(path).parent().map(Path::to_path_buf));
                    self.inputs.push(path.into());
                }
                ("-o", true) => {}
                _ => said.push(format!("{option}{path}")),
            }
        }
        Some(said)
    }

    fn variables(&mut self, call: &Call) -> Option<Vec<String>> {
        let mut said = Vec::new();
        for (name, value) in &call.env {
            let (name, value) = (name.to_str()?, value.to_str()?);
            if LINKER_ENV.contains(&name) {
                return None;
            }
            if OTHERS.iter().any(|own| name.starts_with(own)) {
                continue;
            }
            let mut value = value.to_owned();
            if [LIBRARIES, "PATH"].contains(&name) {
                let folders = value.split(':').map(|folder| Some((folder, self.is_own(folder)?)));
                let folders: Vec<_> = folders.collect::<Option<_>>()?;
                self.folders.extend(folders.iter().filter(|(_, own)| *own).map(|(folder, _)| folder.into()));
                let folder = |(folder, own): &(&str, bool)| if *own { "" } else { *folder }.to_owned();
                value = folders.iter().map(folder).collect::<Vec<_>>().join(":");
            }
            said.push(format!("{name}={value}"));
        }
        Some(said)
    }

    /// Whether a path lies in the build's own folder; nothing for one that means something else in another folder.
    fn is_own(&self, path: &str) -> Option<bool> {
        let path = Path::new(path);
        let plain = path.is_absolute() && !path.iter().any(|part| part == OsStr::new(".."));
        plain.then(|| path.starts_with(&self.top))
    }

    /// What a linker that is called in this way will be seen to read, if that is known.
    pub(super) fn recall(&self, call: &Call) -> Option<Seen> {
        let habit: Habit = self.memory(&call.toolchains)?.recall()?;
        let stays = |(name, touched): (&String, &Touched)| stamp(Path::new(name)) == touched.stamp;
        let found =
            |folder: &PathBuf| habit.sought.iter().any(|name| folder.join(name).symlink_metadata().is_ok());
        if habit.shape != self.name
            || !habit.names.iter().all(stays)
            || self.folders.iter().any(found)
            || !self.leads_nowhere().unwrap_or_default()
        {
            return None;
        }
        let mut names = habit.names;
        let read = |stamp| Touched { read: true, stamp, ..Touched::default() };
        for input in &self.inputs {
            names.insert(input.to_str()?.to_owned(), read(Some(stamp(input)?)));
        }
        for path in habit.near.iter().map(|name| call.cwd.join(name)) {
            stamp(&path).is_none().then_some(())?;
            names.insert(path.to_str()?.to_owned(), read(None));
        }
        Some(Seen { names, missed: None })
    }

    /// Remembers what was seen. Whatever fails is of no account.
    pub(super) fn keep(&self, call: &Call, seen: &Seen) {
        let habit = if self.leads_nowhere().unwrap_or_default() { self.habit(call, seen) } else { None };
        if let Some((habit, memory)) = habit.zip(self.memory(&call.toolchains))
            && let Ok(room) = memory.make_room()
        {
            memory.keep(room, &habit);
        }
    }

    fn memory<'a>(&self, toolchains: &'a Path) -> Option<Memory<'a>> {
        let place = u8::from_str_radix(self.name.get(..2)?, 16).ok()? % PLACES;
        toolchains.is_absolute().then(|| Memory { folder: toolchains, name: format!("link-{place}") })
    }

    /// What of this another linker does as well that is called in this way; nothing where that cannot be told.
    fn habit(&self, call: &Call, seen: &Seen) -> Option<Habit> {
        let (mut names, mut sought, mut near) = <(BTreeMap<_, _>, BTreeSet<_>, BTreeSet<_>)>::default();
        let now = clock::now();
        // Where it is also told of the folder in which it was called, it is not known what brought it there.
        let told = call.cwd.to_str().is_none_or(|cwd| self.said.contains(cwd));
        if seen.missed.is_some() {
            return None;
        }
        for (name, touched) in &seen.names {
            let path = Path::new(name);
            // What it made for itself, and its output, is mostly gone by now.
            let own = touched.made && touched.stamp.is_none() && !touched.removed;
            let own = own && (path.parent() == self.output.parent() || path.symlink_metadata().is_err());
            let idle = is_idle(path) && !path.starts_with("/etc");
            if own || idle || self.inputs.iter().any(|input| input == path) || path == self.output {
                continue;
            }
            if touched.made || touched.removed || touched.listed && touched.stamp.as_deref() == Some(FOLDER) {
                return None;
            }
            let passed = touched.stamp.as_deref() == Some(FOLDER);
            if path.starts_with(&self.top) {
                let below = self.folders.iter().filter_map(|folder| path.strip_prefix(folder).ok());
                match below.min_by_key(|below| below.iter().count()) {
                    Some(below) if touched.stamp.is_none() => drop(sought.insert(below.to_path_buf())),
                    _ if passed => {}
                    _ => return None,
                }
            } else if let Ok(below) = path.strip_prefix(&call.cwd) {
                // It was called there, which is another folder for each package.
                if path != call.cwd {
                    (touched.stamp.is_none() && !told).then_some(())?;
                    near.insert(below.to_path_buf());
                } else if !passed {
                    return None;
                }
            } else {
                let metadata = fs::metadata(path).ok().filter(|metadata| !metadata.is_dir());
                let young = metadata.is_some_and(|metadata| Stamp::of(&metadata).is_young(now));
                (!young && stamp(path) == touched.stamp).then_some(())?;
                names.insert(name.clone(), touched.clone());
            }
        }
        Some(Habit { shape: self.name.clone(), names, sought, near })
    }

    /// Whether nothing that is linked may send a linker to other files.
    fn leads_nowhere(&self) -> std::io::Result<bool> {
        let wanted = ELSEWHERE.map(str::to_owned).into();
        let (mut bytes, mut found) = (0, BTreeSet::new());
        for input in &self.inputs {
            let mut file = File::open(input)?;
            bytes += file.metadata()?.len();
            let mut start = [0; 8];
            if bytes > MAX_INPUTS {
                return Ok(false);
            }
            if !is_object(input) {
                continue;
            }
            file.read_exact(&mut start)?;
            // A text would be a script, and there are archives that only name their members.
            if !start.starts_with(b"\x7fELF") && &start != b"!<arch>\n" {
                return Ok(false);
            }
            text::mentions_anywhere_in(start.as_slice().chain(file), &wanted, &mut found)?;
        }
        Ok(found.is_empty())
    }
}

/// What is read of the compiler's own text about symbols leads nowhere.
fn is_object(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "o" || ending == "rlib")
}

fn is_plain(word: &str) -> bool {
    // What follows a comma is another word for the linker.
    let value = |value: &str| !value.contains(['/', ',']);
    let keywords = word.strip_prefix("-Wl,-z,").is_some_and(|words| words.split(",-z,").all(value));
    let valued = PLAIN_WITH_VALUE.iter().filter_map(|own| word.strip_prefix(own)).any(value);
    PLAIN.contains(&word) || keywords || valued
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use potluck_protocol::action::Project;

    use super::super::watch::seen::Use;
    use super::*;

    /// A build in a folder of its own, and a system in another.
    struct Place {
        folder: tempfile::TempDir,
        call: Call,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            for name in ["target/deps", "package", "system", "toolchains"] {
                fs::create_dir_all(at(name)).unwrap();
            }
            fs::write(at("target/CACHEDIR.TAG"), "").unwrap();
            fs::write(at("system/libc.so"), "library").unwrap();
            let env = [
                ("PATH", "/bin".to_owned()),
                (LIBRARIES, format!("{}:/usr/lib", at("target/deps").display())),
            ];
            let call = Call {
                args: Vec::new(),
                cwd: at("package"),
                env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                project: Project::new("default").unwrap(),
                deadline: Duration::ZERO,
                toolchains: at("toolchains"),
                stalled: None,
                log: None,
                home: None,
                this: None,
            };
            Self { folder, call }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// The shape of a link of an object of this name, with more options.
        fn shape(&self, object: &str, more: &[&str]) -> Option<Shape> {
            self.object(object, b"\x7fELF and code");
            let (object, output) = (self.at(&format!("target/deps/{object}.o")), self.at("target/deps/out"));
            let words = ["cc".into(), "-m64".into(), object, "-lc".into(), "-o".into(), output];
            let words = words.iter().map(|word| word.as_os_str().to_owned());
            Shape::of(&Call { args: words.chain(more.iter().map(Into::into)).collect(), ..self.call.clone() })
        }

        fn object(&self, name: &str, content: &[u8]) {
            fs::write(self.at(&format!("target/deps/{name}.o")), content).unwrap();
        }

        /// What such a link reads, and what it makes.
        fn seen(&self, object: &str) -> Seen {
            let mut seen = Seen::default();
            let mut note = |name: &str, how| seen.note(&self.at(name), how, || stamp(&self.at(name)));
            note(&format!("target/deps/{object}.o"), Use::List);
            note("target/deps/glibc/libc.so", Use::Read);
            note("system/libc.so", Use::List);
            note("system/none", Use::Read);
            note("package", Use::Read);
            note("package/libgcc.so", Use::Read);
            note("temporary", Use::Make);
            note("target/deps/out.tmp1", Use::Make);
            note("target/deps/out", Use::Make);
            seen
        }

        /// As `keep`, however short a time ago the files were made.
        fn learn(&self, shape: &Shape, seen: &Seen) -> bool {
            let old = |habit: &Habit| habit.names.len() == 2 && habit.sought.len() == 1;
            let mut names = seen.clone();
            // What was made just now may change without anybody seeing it.
            let young = names.names.remove(self.at("system/libc.so").to_str().unwrap()).unwrap();
            let Some(mut habit) = shape.habit(&self.call, &names) else { return false };
            habit.names.insert(self.at("system/libc.so").display().to_string(), young);
            assert!(old(&habit), "{habit:?}");
            let memory = shape.memory(&self.call.toolchains).unwrap();
            memory.keep(memory.make_room().unwrap(), &habit);
            true
        }
    }

    #[test]
    fn a_linker_that_is_called_as_before_reads_the_same_and_its_inputs() {
        let place = Place::new();
        let one = place.shape("one", &[]).unwrap();
        assert_eq!(one.recall(&place.call), None, "it was never seen");
        assert!(place.learn(&one, &place.seen("one")));
        let two = place.shape("two", &[]).unwrap();
        let seen = two.recall(&place.call).unwrap();
        let names = |names: &[&str]| {
            names.iter().map(|name| place.at(name).display().to_string()).collect::<Vec<_>>()
        };
        let expected = names(&["package/libgcc.so", "system/libc.so", "system/none", "target/deps/two.o"]);
        assert_eq!(seen.names.keys().cloned().collect::<Vec<_>>(), expected);
        assert!(seen.missed.is_none() && seen.names.values().all(|touched| touched.read));
        // Another build, in another folder, with variables of its own.
        let other = place.folder.path().join("else/target");
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("CACHEDIR.TAG"), "").unwrap();
        let words = ["cc", "-m64", "-lc", "-o", &other.join("x").display().to_string()].map(Into::into);
        let mut call = Call { args: words.into(), cwd: "/".into(), ..place.call.clone() };
        call.env.insert("CARGO_PKG_NAME".into(), "other".into());
        call.env.insert(LIBRARIES.into(), format!("{}:/usr/lib", other.display()).into());
        assert_eq!(Shape::of(&call).unwrap().name, one.name);
        call.env.insert("LANG".into(), "C".into());
        assert_ne!(Shape::of(&call).unwrap().name, one.name, "a linker may heed it");
        let folder = place.at("target/else").display().to_string();
        let more = place.shape("one", &["-L", &folder]).unwrap();
        assert_ne!(more.name, one.name, "one folder more in which something may be found");
    }

    #[test]
    fn one_that_finds_another_system_is_watched() {
        type Change = fn(&Place);
        let changes: [(&str, Change); 5] = [
            ("a library that was changed", |place| fs::write(place.at("system/libc.so"), "another").unwrap()),
            ("one that was not there", |place| fs::write(place.at("system/none"), "").unwrap()),
            ("one that is gone", |place| fs::remove_file(place.at("system/libc.so")).unwrap()),
            ("one where it is called", |place| fs::write(place.at("package/libgcc.so"), "").unwrap()),
            ("one in the build's folder", |place| {
                fs::create_dir(place.at("target/deps/glibc")).unwrap();
                symlink("nowhere", place.at("target/deps/glibc/libc.so")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let place = Place::new();
            let shape = place.shape("one", &[]).unwrap();
            assert!(place.learn(&shape, &place.seen("one")));
            assert!(shape.recall(&place.call).is_some());
            change(&place);
            assert_eq!(shape.recall(&place.call), None, "{what}");
        }
    }

    #[test]
    fn what_may_lead_a_linker_elsewhere_is_watched() {
        let place = Place::new();
        let shape = place.shape("one", &[]).unwrap();
        assert!(place.learn(&shape, &place.seen("one")));
        for content in [
            b"\x7fELF\0.deplibs\0".as_slice(),
            b"\x7fELF .gnu.lto_main",
            b"!<thin>\n/0",
            b"INPUT(/else/x.a)",
            b"",
        ] {
            place.object("one", content);
            assert_eq!(shape.recall(&place.call), None, "{content:?}");
        }
        place.object("one", b"\x7fELF and code");
        assert!(shape.recall(&place.call).is_some());
        File::options()
            .write(true)
            .open(place.at("target/deps/one.o"))
            .unwrap()
            .set_len(MAX_INPUTS + 1)
            .unwrap();
        assert_eq!(shape.recall(&place.call), None, "more than is looked through");
    }

    #[test]
    fn a_call_that_is_not_understood_has_no_shape() {
        let place = Place::new();
        assert!(
            place
                .shape("one", &["-Wl,-z,relro,-z,now", "-Wl,-O1", "-fuse-ld=lld", "-L", "/usr/lib"])
                .is_some()
        );
        let library = place.at("target/deps/libx.so").display().to_string();
        for word in [
            "@words",
            "other.o",
            "-Lrelative",
            "-Tscript.ld",
            "-Wl,-T,script.ld",
            "-Wl,-z,relro,script.ld",
            "-Wl,-z,relro,-T,script.ld",
            "-lx/y",
            "-Brelative",
            "/usr/../x.o",
            "-Wl,--unknown",
            &library,
        ] {
            assert!(place.shape("one", &[word]).is_none(), "{word}");
        }
        for (name, value) in [("LIBRARY_PATH", "/x"), ("PATH", "/bin:."), (LIBRARIES, "/x:")] {
            let mut place = Place::new();
            place.call.env.insert(name.into(), value.into());
            assert!(place.shape("one", &[]).is_none(), "{name}={value}");
        }
        fs::remove_file(place.at("target/CACHEDIR.TAG")).unwrap();
        assert!(place.shape("one", &[]).is_none(), "no build of cargo's");
    }

    #[test]
    fn what_another_linker_may_do_otherwise_is_not_remembered() {
        let place = Place::new();
        let shape = place.shape("one", &[]).unwrap();
        let uses: [(&str, Use); 7] = [
            ("system/libc.so", Use::Change),
            ("system/libc.so", Use::Remove),
            ("system", Use::List),
            ("package/script.ld", Use::Read),
            ("package/folder", Use::Read),
            ("target/deps/else.o", Use::List),
            ("target/else", Use::Read),
        ];
        place.object("else", b"\x7fELF");
        fs::create_dir(place.at("package/folder")).unwrap();
        fs::write(place.at("package/script.ld"), "").unwrap();
        let mut old = place.seen("one");
        old.names.remove(place.at("system/libc.so").to_str().unwrap());
        assert!(shape.habit(&place.call, &old).is_some());
        for (name, how) in uses {
            let mut seen = old.clone();
            seen.note(&place.at(name), how, || stamp(&place.at(name)));
            assert_eq!(shape.habit(&place.call, &seen), None, "{name} {how:?}");
        }
        let told = Call { cwd: "/usr".into(), ..place.call.clone() };
        let mut elsewhere = old.clone();
        elsewhere.note(Path::new("/usr/none.so"), Use::Read, || None);
        assert_eq!(shape.habit(&told, &elsewhere), None, "a folder that it was told of as well");
        old.miss("something");
        assert_eq!(shape.habit(&place.call, &old), None);
        assert_eq!(
            shape.habit(&place.call, &place.seen("one")),
            None,
            "its library is too young to be sure of"
        );
    }
}
