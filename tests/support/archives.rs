// SPDX-License-Identifier: MIT OR Apache-2.0
//! What compilers' caches keep and ask, for [`crate::decoders`].

use potluck_node::front::http::{alike, socket};

/// An entry comes out the same however it comes in, and who made it when is told once at most.
pub(crate) fn ccache_entry(bytes: &[u8]) {
    let once = alike::ccache::rewritten(bytes, 4096);
    assert_eq!(alike::ccache::rewritten(bytes, 5), once);
    assert_eq!(alike::ccache::rewritten(&once, 7), once, "twice is once");
    assert!(once.len() <= bytes.len());
}

/// All that a ccache says, as the daemon hears it.
pub(crate) fn ccache_request(mut bytes: &[u8]) {
    while let socket::Head::Is(ask, used) = socket::head(bytes) {
        assert!(used > 0 && used <= socket::MAX_HEAD_BYTES);
        let value = match ask {
            socket::Ask::Put { length, .. } => usize::try_from(length).unwrap_or(usize::MAX),
            _ => 0,
        };
        bytes = bytes.get(used.saturating_add(value)..).unwrap_or_default();
    }
    assert!(bytes.len() < socket::MAX_HEAD_BYTES || socket::head(bytes) == socket::Head::Unknown);
}

/// What is arranged is as large as before, and stays so.
pub(crate) fn sccache_archive(bytes: &[u8]) {
    let Some(arranged) = alike::sccache::whole(bytes) else { return };
    assert_eq!(arranged.len(), bytes.len());
    assert_eq!(alike::sccache::whole(&arranged), None, "twice is once");
}
