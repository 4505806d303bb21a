// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that keep values under keys by plain HTTP: ccache, sccache by WebDAV, Bazel, moon, Gradle and Nx.
//!
//! * [`map`] says what a request means, and each tool has a file of its own there: all pure.
//! * [`alike`] puts the archives of ccache and sccache into a form in which two builders agree: pure; `archive` does it.
//! * [`socket`] is how ccache asks without HTTP.
//! * `guard` is a process between Nx and the daemon, since Nx fails without one.
//! * `keep` answers for values under keys that mean nothing to anybody else; `results` for Bazel's, which name Blobs.

pub mod alike;
#[cfg(feature = "net")]
mod archive;
#[cfg(feature = "net")]
pub mod guard;
#[cfg(feature = "net")]
mod keep;
pub mod map;
#[cfg(feature = "net")]
mod results;
pub mod socket;

#[cfg(feature = "net")]
pub use fronts::{BAZEL, CCACHE, GRADLE, NX, WEBDAV};

#[cfg(feature = "net")]
mod fronts {
    use super::map::{ccache, gradle, nx, webdav};
    use super::{keep, results};
    use crate::front::listen::Front;

    /// ccache.
    pub const CCACHE: Front = Front {
        name: "ccache",
        serve: |door, asked, upload| Box::pin(keep::serve(door, &ccache::DIALECT, asked, upload)),
    };

    /// sccache, and whatever else keeps values by WebDAV.
    pub const WEBDAV: Front = Front {
        name: "webdav",
        serve: |door, asked, upload| Box::pin(keep::serve(door, &webdav::DIALECT, asked, upload)),
    };

    /// Bazel and moon.
    pub const BAZEL: Front =
        Front { name: "bazel", serve: |door, asked, upload| Box::pin(results::serve(door, asked, upload)) };

    /// Gradle.
    pub const GRADLE: Front = Front {
        name: "gradle",
        serve: |door, asked, upload| Box::pin(keep::serve(door, &gradle::DIALECT, asked, upload)),
    };

    /// Nx.
    pub const NX: Front = Front {
        name: "nx",
        serve: |door, asked, upload| Box::pin(keep::serve(door, &nx::DIALECT, asked, upload)),
    };
}
