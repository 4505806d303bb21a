// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wrapper of rustc as a process: reads its surroundings, reaches the daemon, and leaves the rest to the Front.
//! Whatever is wrong, the compiler runs.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use potluck_node::cache::CacheError;
use potluck_node::control::client::Client;
use potluck_node::daemon::socket;
use potluck_node::front::rustc::linker;
use potluck_node::front::rustc::script::launcher::SCRIPT;
use potluck_node::front::rustc::script::{plainly, script};
use potluck_node::front::rustc::stall::Stall;
use potluck_node::front::rustc::watch;
use potluck_node::front::rustc::{Call, Decision, Reason, pass, plan, shim};
use potluck_node::home::Home;
use potluck_node::project;
use potluck_protocol::action::Project;

/// How long a look-up may take unless `POTLUCK_DEADLINE_MS` says otherwise. Transfers may take longer, as long as
/// compiling would.
const DEADLINE: Duration = Duration::from_millis(1000);

/// Runs as the wrapper.
pub(crate) fn run() -> ExitCode {
    let name = std::env::args_os().next();
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(folder) = linker::is_called(name.as_deref()) {
        return run_linker(&folder);
    }
    if let Some(code) = watch::run(&args) {
        return code;
    }
    let home = Home::locate(std::env::var_os("POTLUCK_HOME").map(PathBuf::from)).ok();
    let is_script = args.first().is_some_and(|word| word == SCRIPT) && args.len() > 1;
    let call = call(args, home.as_ref());
    if is_script {
        return run_script(call, home);
    }
    if call.var("POTLUCK_OFF").is_some_and(|off| off != "0") {
        return pass(&call, &Decision::PassThrough(Reason::Off));
    }
    // Even a fault of this program must not become one of the build.
    let decision = std::panic::catch_unwind(|| plan(&call));
    let decision = decision.unwrap_or(Decision::PassThrough(Reason::Fault));
    let (placed, home) = match (decision, home) {
        (Decision::Cacheable(placed), Some(home)) => (placed, home),
        (decision, _) => return pass(&call, &decision),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return pass(&call, &Decision::Cacheable(placed)) };
    runtime.block_on(async {
        let door = door(&home, &call).await;
        shim(door, call, *placed).await
    })
}

/// Runs a build script, or restores what it made.
fn run_script(mut call: Call, home: Option<Home>) -> ExitCode {
    call.args.remove(0);
    if let Some(folder) = call.var("OUT_DIR").filter(|_| call.var("POTLUCK_PROJECT").is_none()) {
        call.project = project::of_build(&["--out-dir".into(), folder.into()], &call.cwd);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (Ok(runtime), Some(home)) = (runtime, home) else { return plainly(&call) };
    runtime.block_on(async {
        let door = door(&home, &call).await;
        script(door, call).await
    })
}

/// Runs the linker in whose place the compiler has called this.
fn run_linker(folder: &Path) -> ExitCode {
    let home = Home::locate(std::env::var_os("POTLUCK_HOME").map(PathBuf::from)).ok();
    let call = call(std::env::args_os().collect(), home.as_ref());
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(linker::link(call, folder)),
        Err(_) => ExitCode::FAILURE,
    }
}

fn call(args: Vec<OsString>, home: Option<&Home>) -> Call {
    // A folder that was removed has no name, but the compiler may not need one.
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let env: std::collections::BTreeMap<_, _> = std::env::vars_os().collect();
    let text = |name: &str| env.get(OsStr::new(name)).and_then(|value| value.to_str());
    let deadline = text("POTLUCK_DEADLINE_MS").and_then(|ms| ms.parse().ok());
    let deadline = deadline.map_or(DEADLINE, Duration::from_millis);
    let named = text("POTLUCK_PROJECT").and_then(|name| Project::new(name).ok());
    // The package's own folder has no say: it may be a stranger's.
    let project = named.unwrap_or_else(|| project::of_build(&args, &cwd));
    let log = env.get(OsStr::new("POTLUCK_RUSTC_LOG")).map(PathBuf::from);
    let toolchains = home.map(|home| home.root().join("toolchains")).unwrap_or_default();
    let stalled = home.map(|home| Stall::find(home.root()));
    let deadline = stalled.as_ref().map_or(deadline, |stalled| stalled.deadline(deadline));
    let (home, this) = (home.map(|home| home.root().to_path_buf()), std::env::current_exe().ok());
    Call { args, cwd, env, project, deadline, toolchains, stalled, log, home, this }
}

/// The daemon, if it is there and answers.
async fn door(home: &Home, call: &Call) -> Option<Client> {
    let stalled = call.stalled.as_ref()?;
    match Client::connect(&socket(home), "potluck-rustc", stalled.hello(call.deadline)?).await {
        Ok(client) => Some(client),
        Err(error) => {
            if matches!(error, CacheError::Late) {
                stalled.note(true);
            }
            None
        }
    }
}
