// SPDX-License-Identifier: MIT OR Apache-2.0
//! iroh-blobs beside us, as a program of its own: `tests/bench/iroh`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::scratch::Report;

/// The program, which has the files and fetches them each time that it is asked to.
pub(crate) struct Iroh {
    child: Child,
    asks: ChildStdin,
    tells: BufReader<ChildStdout>,
}

/// Where it is: as `POTLUCK_BENCH_IROH` says, or where cargo puts it.
fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/iroh/target/release/potluck-bench-iroh");
    std::env::var_os("POTLUCK_BENCH_IROH").map_or(built, PathBuf::from)
}

impl Iroh {
    /// Starts it with files, of which it is to fetch so many at a time, if it was built.
    pub(crate) fn start(report: &Report, files: &[PathBuf], at_a_time: usize) -> Option<Self> {
        let program = program();
        if !program.is_file() {
            report.note(
                "iroh-blobs is not here: cargo build --release --manifest-path tests/bench/iroh/Cargo.toml",
            );
            return None;
        }
        let scratch = report.path("iroh");
        std::fs::create_dir_all(&scratch).expect("a folder can be made");
        let mut command = Command::new(program);
        command.arg(scratch).arg(at_a_time.to_string()).args(files);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it can be started");
        let asks = child.stdin.take().expect("it was piped");
        let tells = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut this = Self { child, asks, tells };
        assert_eq!(this.line(), "ready");
        Some(this)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.tells.read_line(&mut line).expect("it says something");
        line.trim_end().to_owned()
    }

    /// Has it fetch all once; gives the seconds on the clock, and those of processor time.
    pub(crate) fn turn(&mut self) -> (f64, f64) {
        writeln!(self.asks, "go").expect("it listens");
        let line = self.line();
        let mut numbers = line.split(' ').map(|number| number.parse().expect("it says two numbers"));
        (numbers.next().expect("there are two"), numbers.next().expect("there are two"))
    }
}

impl Drop for Iroh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
