// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that keep values under keys by plain HTTP: ccache, sccache by WebDAV, Bazel, moon, Gradle and Nx.
//!
//! * [`map`] says what a request means, and each tool has a file of its own there: all pure.
//! * [`keep`] answers for values under keys that mean nothing to anybody else.

mod keep;
pub mod map;

use self::map::ccache;
use super::listen::Front;

/// ccache.
pub const CCACHE: Front = Front {
    name: "ccache",
    serve: |door, asked, upload| Box::pin(keep::serve(door, &ccache::DIALECT, asked, upload)),
};
