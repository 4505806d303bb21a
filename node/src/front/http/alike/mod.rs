// SPDX-License-Identifier: MIT OR Apache-2.0
//! Archives of tools in a form that does not tell who made them when, so that what two builders claim is the same Blob
//! when the outputs in it are the same. All pure.
//!
//! The outputs stay where they are, packed as the tool has packed them, and whoever gets the archive need not take it
//! for anything but the tool's own. Taken apart into a Blob for each output an archive would be larger here, and
//! would have to be put together for each question; see ARCHITECTURE.md for the figures. What is not understood stays
//! as it came.

pub mod ccache;
pub mod sccache;

/// What the values of a tool are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archive {
    /// Nobody's business.
    Opaque,
    /// Entries of ccache.
    Ccache,
    /// Archives of sccache.
    Sccache,
}
