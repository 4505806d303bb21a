// SPDX-License-Identifier: MIT OR Apache-2.0
//! rustc's arguments: read into a [`Unit`], or refused with a reason. Pure.
//!
//! Whatever is not understood is refused, so that a new flag of a new compiler can make a build slower but not wrong.

use std::collections::BTreeSet;

use super::unit::{Emit, Extern, Kind, Unit};

/// Why a call of the compiler is passed through as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no compiler in the call.
    #[error("no compiler was named")]
    NoCompiler,
    /// Something else than rustc is to be run, e.g. `clippy-driver`.
    #[error("'{0}' is not rustc")]
    NotRustc(String),
    /// An argument or a path is not UTF-8.
    #[error("an argument is not UTF-8")]
    NotUtf8,
    /// The compiler is asked about itself.
    #[error("a question to the compiler, not a compilation")]
    Query,
    /// The source comes from stdin.
    #[error("the source comes from stdin")]
    Stdin,
    /// There is not exactly one source file.
    #[error("there is not exactly one source file")]
    Inputs,
    /// Arguments in a file.
    #[error("arguments come from a file")]
    ArgumentFile,
    /// A flag that is not on the list of those that are understood, or a value of it.
    #[error("the flag '{0}' is not understood")]
    Flag(String),
    /// A flag without which the unit is none of cargo's.
    #[error("the flag '{0}' is missing")]
    Missing(&'static str),
    /// Incremental compilation has a cache of its own.
    #[error("incremental compilation")]
    Incremental,
    /// Who reads what is counted looks for the sources by the names that the compiler has noted.
    #[error("coverage is counted for sources where they lie")]
    Coverage,
    /// Another set of outputs.
    #[error("the output '{0}' is not cached")]
    Emit(String),
    /// A crate type that is not known.
    #[error("the crate type '{0}' is not understood")]
    CrateType(String),
    /// Diagnostics for people would lose their colours on the way.
    #[error("diagnostics are not JSON")]
    HumanDiagnostics,
}

/// `-C` options that are understood: their effect is in their text, and they name no file.
const CODEGEN: &[&str] = &[
    "code-model",
    "codegen-units",
    "collapse-macro-debuginfo",
    "control-flow-guard",
    "debug-assertions",
    "debuginfo",
    "default-linker-libraries",
    "dwarf-version",
    "embed-bitcode",
    "extra-filename",
    "force-frame-pointers",
    "force-unwind-tables",
    "inline-threshold",
    "link-arg",
    "link-args",
    "link-dead-code",
    "linker",
    "linker-flavor",
    "linker-plugin-lto",
    "lto",
    "metadata",
    "no-prepopulate-passes",
    "no-redzone",
    "no-vectorize-loops",
    "no-vectorize-slp",
    "opt-level",
    "overflow-checks",
    "panic",
    "prefer-dynamic",
    "relocation-model",
    "relro-level",
    "split-debuginfo",
    "strip",
    "symbol-mangling-version",
    "target-cpu",
    "target-feature",
];
/// Long flags with a value.
const LONG: &[&str] = &[
    "allow",
    "cap-lints",
    "cfg",
    "check-cfg",
    "codegen",
    "color",
    "crate-name",
    "crate-type",
    "deny",
    "diagnostic-width",
    "edition",
    "emit",
    "error-format",
    "extern",
    "forbid",
    "force-warn",
    "json",
    "out-dir",
    "remap-path-prefix",
    "target",
    "warn",
];
/// Crate types that are understood, alone or together.
const CRATE_TYPES: &[&str] = &["lib", "rlib", "dylib", "cdylib", "staticlib", "bin"];
/// Crates that come with the compiler and may be named without a file.
const BUNDLED: &[&str] = &["alloc", "core", "proc_macro", "std", "test"];
/// Link arguments that name no file and ask nothing of the machine. What others have a linker do has to be seen.
const LINK_ARGS: &[&str] =
    &["-Wl,-z,", "-Wl,--as-needed", "-Wl,-O", "-Wl,--build-id", "-Wl,--gc-sections", "-pthread"];

/// What the arguments said, before anything was required of it.
#[derive(Default)]
struct Draft {
    inputs: Vec<String>,
    crate_name: Option<String>,
    crate_types: Vec<String>,
    edition: Option<String>,
    target: Option<String>,
    out_dir: Option<String>,
    emit: Vec<String>,
    cfgs: Vec<String>,
    check_cfgs: Vec<String>,
    codegen: Vec<(String, Option<String>)>,
    test: bool,
    lints: Vec<(String, String)>,
    externs: Vec<Extern>,
    search: Vec<(String, String)>,
    native: Vec<String>,
    remaps: Vec<String>,
    error_format: Option<String>,
    json: Vec<String>,
}

/// Reads the arguments that follow the compiler's path.
///
/// # Errors
/// [`Refusal`].
pub fn parse<S: AsRef<str>>(args: &[S]) -> Result<Unit, Refusal> {
    let mut draft = Draft::default();
    let mut rest = args.iter().map(AsRef::as_ref);
    while let Some(arg) = rest.next() {
        if let Some(long) = arg.strip_prefix("--") {
            draft.long(arg, long, &mut rest)?;
        } else if arg == "-" {
            return Err(Refusal::Stdin);
        } else if let Some(short) = arg.strip_prefix('-') {
            draft.short(arg, short, &mut rest)?;
        } else if arg.starts_with('@') {
            return Err(Refusal::ArgumentFile);
        } else {
            draft.inputs.push(arg.to_owned());
        }
    }
    draft.finish()
}

fn unknown(arg: &str) -> Refusal {
    Refusal::Flag(arg.chars().take(80).collect())
}

impl Draft {
    /// A flag that begins with `--`: `--flag value` or `--flag=value`.
    fn long<'a>(
        &mut self,
        arg: &str,
        long: &str,
        rest: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), Refusal> {
        let (flag, value) = long.split_once('=').map_or((long, None), |(flag, value)| (flag, Some(value)));
        match flag {
            "test" if value.is_none() => {
                self.test = true;
                return Ok(());
            }
            "print" | "version" | "help" | "explain" => return Err(Refusal::Query),
            _ if !LONG.contains(&flag) => return Err(unknown(arg)),
            _ => {}
        }
        let value = value.or_else(|| rest.next()).ok_or_else(|| unknown(arg))?;
        self.flag(flag, value)
    }

    /// A flag that begins with `-`: `-C value`, `-Cvalue`.
    fn short<'a>(
        &mut self,
        arg: &str,
        short: &str,
        rest: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), Refusal> {
        match arg {
            "-O" => return self.codegen_option("opt-level=3"),
            "-g" => return self.codegen_option("debuginfo=2"),
            "-vV" | "-V" | "-Vv" | "-h" => return Err(Refusal::Query),
            _ => {}
        }
        let flag = match short.chars().next() {
            Some('C') => "codegen",
            Some('A') => "allow",
            Some('W') => "warn",
            Some('D') => "deny",
            Some('F') => "forbid",
            Some('L') => "search",
            Some('l') => "native",
            _ => return Err(unknown(arg)),
        };
        let value = if short.len() > 1 { Some(&short[1..]) } else { rest.next() };
        self.flag(flag, value.ok_or_else(|| unknown(arg))?)
    }

    fn flag(&mut self, flag: &str, value: &str) -> Result<(), Refusal> {
        let owned = || value.to_owned();
        match flag {
            "cfg" => self.cfgs.push(owned()),
            "check-cfg" => self.check_cfgs.push(owned()),
            "codegen" => self.codegen_option(value)?,
            "allow" | "warn" | "deny" | "forbid" | "force-warn" | "cap-lints" => {
                if value == "help" {
                    return Err(Refusal::Query);
                }
                self.lints.push((flag.to_owned(), owned()));
            }
            "crate-name" => self.crate_name = Some(owned()),
            "crate-type" => self.crate_types.extend(value.split(',').map(str::to_owned)),
            "edition" => self.edition = Some(owned()),
            "emit" => self.emit.extend(value.split(',').map(str::to_owned)),
            "error-format" => self.error_format = Some(owned()),
            "extern" => self.externs.push(parse_extern(value)?),
            "json" => self.json.push(owned()),
            "native" => self.native.push(parse_native(value)?),
            "out-dir" => self.out_dir = Some(owned()),
            "remap-path-prefix" => self.remaps.push(owned()),
            "search" => self.search.push(parse_search(value)?),
            "target" if value.ends_with(".json") => return Err(unknown("--target with a file")),
            "target" => self.target = Some(owned()),
            // How wide and colourful diagnostics are does not change what is compiled.
            "color" | "diagnostic-width" => {}
            _ => return Err(unknown(flag)),
        }
        Ok(())
    }

    fn codegen_option(&mut self, option: &str) -> Result<(), Refusal> {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        match (name.replace('_', "-").as_str(), value) {
            ("incremental", _) => Err(Refusal::Incremental),
            ("instrument-coverage", Some("no" | "n" | "off" | "false" | "0")) => Ok(()),
            ("instrument-coverage", _) => Err(Refusal::Coverage),
            ("split-debuginfo", Some("off")) => Ok(()),
            // With a value it names a plug-in.
            ("linker-plugin-lto", Some(_)) => Err(unknown(&format!("-C {option}"))),
            ("split-debuginfo", _) => Err(unknown(&format!("-C {option}"))),
            (name, value) if CODEGEN.contains(&name) => {
                self.codegen.push((name.to_owned(), value.map(str::to_owned)));
                Ok(())
            }
            _ => Err(unknown(&format!("-C {option}"))),
        }
    }

    fn finish(self) -> Result<Unit, Refusal> {
        let crate_name = self.crate_name.ok_or(Refusal::Missing("--crate-name"))?;
        if crate_name == "___" {
            return Err(Refusal::Query);
        }
        let [source] = self.inputs.try_into().map_err(|_| Refusal::Inputs)?;
        let crate_type = self.crate_types.join(",");
        let kind = match crate_type.as_str() {
            _ if self.test => Kind::Test,
            "lib" | "rlib" => Kind::Lib,
            "proc-macro" => Kind::ProcMacro,
            "bin" if crate_name.starts_with("build_script_") => Kind::BuildScript,
            "bin" => Kind::Bin,
            _ if crate_type.split(',').all(|one| CRATE_TYPES.contains(&one)) => Kind::Other,
            _ => return Err(Refusal::CrateType(crate_type)),
        };
        let emit = parse_emit(&self.emit)?;
        // rustc takes the last one of an option that is given twice.
        let last = |wanted: &str| self.codegen.iter().rev().find(|(name, _)| name == wanted);
        let extra_filename = last("extra-filename").and_then(|(_, value)| value.clone());
        // Libraries for other languages have the names that these look for.
        let is_plain = self.crate_types.iter().any(|one| one == "cdylib" || one == "dylib");
        let extra_filename = extra_filename
            .or_else(|| is_plain.then(String::new))
            .ok_or(Refusal::Missing("-C extra-filename"))?;
        last("metadata").ok_or(Refusal::Missing("-C metadata"))?;
        if self.error_format.as_deref() != Some("json") {
            return Err(Refusal::HumanDiagnostics);
        }
        if crate_name.contains('/') || extra_filename.contains('/') {
            return Err(unknown("a name with a slash"));
        }
        Ok(Unit {
            kind,
            driver: None,
            crate_name: crate_name.replace('-', "_"),
            crate_type,
            edition: self.edition,
            target: self.target,
            source,
            out_dir: self.out_dir.ok_or(Refusal::Missing("--out-dir"))?,
            emit,
            extra_filename,
            cfgs: self.cfgs,
            check_cfgs: self.check_cfgs,
            codegen: self.codegen,
            lints: self.lints,
            externs: self.externs,
            search: self.search,
            native: self.native,
            remaps: self.remaps,
            json: self.json,
        })
    }
}

fn parse_emit(given: &[String]) -> Result<BTreeSet<Emit>, Refusal> {
    let one = |name: &String| match name.as_str() {
        "dep-info" => Ok(Emit::DepInfo),
        "metadata" => Ok(Emit::Metadata),
        "link" => Ok(Emit::Link),
        _ => Err(Refusal::Emit(name.clone())),
    };
    let emit = given.iter().map(one).collect::<Result<BTreeSet<_>, _>>()?;
    // Without the list of what was read, the key cannot be checked afterwards.
    if !emit.contains(&Emit::DepInfo) {
        return Err(Refusal::Missing("--emit dep-info"));
    }
    Ok(emit)
}

/// `[options:]name[=path]`.
fn parse_extern(value: &str) -> Result<Extern, Refusal> {
    let (name, path) = value.split_once('=').map_or((value, None), |(name, path)| (name, Some(path)));
    let (options, name) = name.rsplit_once(':').unwrap_or(("", name));
    if path.is_none() && !BUNDLED.contains(&name) {
        return Err(unknown(&format!("--extern {value}")));
    }
    Ok(Extern { name: name.to_owned(), options: options.to_owned(), path: path.map(str::to_owned) })
}

/// `[kind=]path`.
fn parse_search(value: &str) -> Result<(String, String), Refusal> {
    let (kind, path) = match value.split_once('=') {
        Some((kind @ ("dependency" | "native" | "all"), path)) => (kind, path),
        Some(("crate" | "framework", _)) => return Err(unknown(&format!("-L {value}"))),
        _ => ("all", value),
    };
    Ok((kind.to_owned(), path.to_owned()))
}

/// `[kind[:modifiers]=]name[:rename]`, of which the plain forms are taken.
fn parse_native(value: &str) -> Result<String, Refusal> {
    let name = native_name(value);
    if name.contains(['/', ':']) || value.contains("verbatim") || value.starts_with("link-arg") {
        return Err(unknown(&format!("-l {value}")));
    }
    Ok(value.to_owned())
}

/// The library's name in the value of a `-l`.
pub fn native_name(value: &str) -> &str {
    value.split_once('=').map_or(value, |(_, name)| name)
}

/// What goes on after a comma is another argument, which may name a file.
fn is_plain_link_arg(value: &str) -> bool {
    let rest = LINK_ARGS.iter().find_map(|arg| value.strip_prefix(arg));
    rest.is_some_and(|rest| !rest.contains([',', '/', '@']))
}

/// Whether the linker is asked for nothing that names a file.
pub fn links_plainly(codegen: &[(String, Option<String>)]) -> bool {
    codegen.iter().all(|(name, value)| match name.as_str() {
        "link-arg" => is_plain_link_arg(value.as_deref().unwrap_or_default()),
        // cargo sends the second for libraries that will only be linked with LTO: they hold bitcode instead of objects.
        "link-args" | "linker-plugin-lto" => false,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "--crate-name my_lib --edition=2021 src/lib.rs --error-format=json --json=artifacts \
        --crate-type lib --emit=dep-info,metadata,link -C opt-level=3 -C metadata=12 -C extra-filename=-ab \
        --out-dir /t/deps -L dependency=/t/deps";

    fn read(extra: &str) -> Result<Unit, Refusal> {
        parse(&LIB.split_whitespace().chain(extra.split_whitespace()).collect::<Vec<_>>())
    }

    fn without(flag: &str) -> Result<Unit, Refusal> {
        assert!(LIB.contains(flag));
        parse(&LIB.replace(flag, "").split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn what_cargo_sends_is_understood() {
        let unit = read(
            "--cfg feature=\"a\" --check-cfg cfg(docsrs) --cap-lints allow -Wunused --warn=x -D y --extern a=/t/liba.rlib \
             --extern noprelude,priv:b=/t/libb.rmeta --extern proc_macro -l static=z -L native=/n -L/m -Clto=thin --codegen panic=abort \
             -g --color always --diagnostic-width=80 --remap-path-prefix a=b",
        )
        .unwrap();
        assert_eq!(unit.kind, Kind::Lib);
        assert_eq!(unit.outputs(), ["my_lib-ab.d", "libmy_lib-ab.rmeta", "libmy_lib-ab.rlib"]);
        assert_eq!(unit.lints.len(), 4);
        assert_eq!(unit.externs[1].options, "noprelude,priv");
        assert_eq!(unit.externs[1].name, "b");
        assert_eq!(unit.externs[2].path, None);
        assert_eq!(unit.native, ["static=z"]);
        assert_eq!(unit.search[2], ("all".to_owned(), "/m".to_owned()));
        assert_eq!(unit.codegen_value("panic"), Some("abort"));
        assert_eq!(unit.codegen_value("lto"), Some("thin"));
        assert_eq!(unit.codegen_value("debuginfo"), Some("2"));
        assert!(read("-C instrument-coverage=off").unwrap().codegen_value("instrument-coverage").is_none());
    }

    #[test]
    fn kinds_are_told_apart() {
        let of = |from: &str, to: &str| {
            parse(&LIB.replace(from, to).split_whitespace().collect::<Vec<_>>()).unwrap()
        };
        let macros = of("--crate-type lib", "--crate-type=proc-macro");
        assert_eq!(
            (macros.kind, macros.outputs().pop().unwrap()),
            (Kind::ProcMacro, "libmy_lib-ab.so".into())
        );
        let bin = of("--crate-type lib", "--crate-type bin");
        assert_eq!((bin.kind, bin.outputs().pop().unwrap()), (Kind::Bin, "my_lib-ab".into()));
        let test = of("--crate-type lib", "--test");
        assert_eq!((test.kind, test.outputs().pop().unwrap()), (Kind::Test, "my_lib-ab".into()));
        assert!(
            test.links()
                && !of("--crate-type lib --emit=dep-info,metadata,link", "--test --emit=dep-info,metadata")
                    .links()
        );
        let many = of("--crate-type lib", "--crate-type rlib --crate-type cdylib --crate-type staticlib");
        assert_eq!(many.kind, Kind::Other);
        assert_eq!(many.outputs()[2..], ["libmy_lib-ab.a", "libmy_lib-ab.rlib", "libmy_lib-ab.so"]);
        let plain =
            LIB.replace("-C extra-filename=-ab", "").replace("--crate-type lib", "--crate-type cdylib");
        let plain = parse(&plain.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(plain.outputs().pop().unwrap(), "libmy_lib.so");
        for native in ["-C target-cpu=native", "-Ctarget_cpu=native"] {
            assert!(read(native).unwrap().is_native());
            assert!(!read(&format!("{native} -C target-cpu=x86-64")).unwrap().is_native());
        }
        let script =
            LIB.replace("my_lib", "build_script_build").replace("--crate-type lib", "--crate-type bin");
        let script = parse(&script.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(script.kind, Kind::BuildScript);
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        type Check = fn(&Refusal) -> bool;
        let flag: Check = |why| matches!(why, Refusal::Flag(_));
        let cases: &[(&str, Check)] = &[
            ("-", |why| *why == Refusal::Stdin),
            ("b.rs", |why| *why == Refusal::Inputs),
            ("@args", |why| *why == Refusal::ArgumentFile),
            ("-vV", |why| *why == Refusal::Query),
            ("--print=cfg", |why| *why == Refusal::Query),
            ("-Cinstrument-coverage", |why| *why == Refusal::Coverage),
            ("-C instrument_coverage=all", |why| *why == Refusal::Coverage),
            ("--print cfg", |why| *why == Refusal::Query),
            ("-W help", |why| *why == Refusal::Query),
            ("--crate-name ___", |why| *why == Refusal::Query),
            ("-C incremental=/t", |why| *why == Refusal::Incremental),
            ("-Cincremental=/t", |why| *why == Refusal::Incremental),
            ("--emit=asm", |why| matches!(why, Refusal::Emit(_))),
            ("--emit=link=/x", |why| matches!(why, Refusal::Emit(_))),
            ("--crate-type other", |why| matches!(why, Refusal::CrateType(_))),
            ("--error-format=human", |why| *why == Refusal::HumanDiagnostics),
            ("-o x", flag),
            ("--sysroot=/s", flag),
            ("--sysroot /s", flag),
            ("-C save-temps", flag),
            ("-C profile-use=/p", flag),
            ("-C profile-generate=/p", flag),
            ("-C linker-plugin-lto=/x.so", flag),
            ("-C split-debuginfo=packed", flag),
            ("-C llvm-args=x", flag),
            ("--target /x/y.json", flag),
            ("-Zunstable-options", flag),
            ("-Z x", flag),
            ("--extern other", flag),
            ("-L crate=/x", flag),
            ("-l static:+verbatim=x.o", flag),
            ("--cfg", flag),
            ("-C", flag),
            ("-x", flag),
            ("--new-flag", flag),
        ];
        for (extra, check) in cases {
            let why = read(extra).expect_err(extra);
            assert!(check(&why), "{extra}: {why:?}");
        }
        for (flag, name) in [
            ("--out-dir /t/deps", "--out-dir"),
            ("-C metadata=12", "-C metadata"),
            ("-C extra-filename=-ab", "-C extra-filename"),
            ("--crate-name my_lib", "--crate-name"),
            ("--emit=dep-info,metadata,link", "--emit dep-info"),
        ] {
            assert_eq!(without(flag), Err(Refusal::Missing(name)));
        }
        assert_eq!(without("src/lib.rs"), Err(Refusal::Inputs));
        assert!(matches!(without("--crate-type lib"), Err(Refusal::CrateType(_))));
        assert!(read("-C link-arg=/x.o").is_ok(), "libraries are not linked");
        assert!(read("-C linker-plugin-lto").is_ok(), "cargo sends it with LTO");
        let plainly = |arg: &str| {
            let args = LIB.replace("--crate-type lib", &format!("--crate-type proc-macro -C {arg}"));
            links_plainly(&parse(&args.split_whitespace().collect::<Vec<_>>()).unwrap().codegen)
        };
        assert!(plainly("link-arg=-Wl,-z,now") && plainly("link-arg=-Wl,-O1") && plainly("opt-level=1"));
        for arg in ["/x.o", "-Wl,-O1,/x.o", "-Wl,-z,now,-T,x.ld", "-Wl,--as-needed,@x", "-fuse-ld=x"] {
            assert!(!plainly(&format!("link-arg={arg}")), "{arg}");
        }
        assert!(!plainly("link-args=-pthread") && !plainly("linker-plugin-lto"));
    }
}
