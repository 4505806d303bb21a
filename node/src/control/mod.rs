// SPDX-License-Identifier: MIT OR Apache-2.0
//! Local processes and the daemon, over `$POTLUCK_HOME/potluck.sock`; the messages are in
//! [`potluck_protocol::control`].

pub mod client;
mod files;
pub mod server;
#[cfg(test)]
mod tests;

use potluck_protocol::control::{Reply, Request};

use crate::link::Addressed;

impl Addressed for Reply {
    fn id(&self) -> Option<u64> {
        Some(match self {
            Self::Welcome(_) => return None,
            Self::Report(report) | Self::Progress(report) => report.id,
            Self::Stopping(plain) => plain.id,
            Self::Answers(answers) => answers.id,
            Self::Missing(missing) => missing.id,
            Self::Data(data) => data.id,
            Self::Written(written) => written.id,
            Self::Published(published) => published.id,
            Self::Failed(failed) => failed.id,
        })
    }

    fn is_last(&self) -> bool {
        match self {
            Self::Data(data) => data.last,
            Self::Progress(_) => false,
            _ => true,
        }
    }
}

/// The id of a request, by which it is answered.
fn id_of(request: &Request) -> Option<u64> {
    Some(match request {
        Request::Greeting(_) | Request::Note(_) => return None,
        Request::Status(plain) | Request::Stop(plain) | Request::Forget(plain) | Request::Refresh(plain) => {
            plain.id
        }
        Request::Why(why) => why.id,
        Request::Lookup(lookup) => lookup.id,
        Request::Missing(missing) => missing.id,
        Request::Read(read) => read.id,
        Request::Write(data) | Request::Import(data) => data.id,
        Request::Work(work) => work.id,
        Request::Export(export) => export.id,
        Request::Publish(publish) => publish.id,
        Request::Take(take) => take.id,
        Request::Give(give) => give.id,
    })
}
