// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much of what ccache says to its helpers as it takes to put, get and remove a value.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use potluck_node::front::http::socket::{GREETING, OK};

/// How long each step may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Puts a value, gets it back and removes it; gives what went wrong.
pub(super) fn round_trip(path: &Path, key: &[u8], value: &[u8]) -> io::Result<Result<(), &'static str>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    if greeting != GREETING {
        return Ok(Err("something else answers there"));
    }
    let length = u8::try_from(key.len()).unwrap_or(u8::MAX);
    let key = [&[length], &key[..length.into()]].concat();
    let size = (value.len() as u64).to_ne_bytes();
    let mut said = [0];
    stream.write_all(&[&[1], &key[..], &[1], &size, value].concat())?;
    stream.read_exact(&mut said)?;
    if said != [OK] {
        return Ok(Err("what was put was not kept"));
    }
    stream.write_all(&[&[0], &key[..]].concat())?;
    stream.read_exact(&mut said)?;
    let mut got = vec![0; size.len() + value.len()];
    if said != [OK] {
        return Ok(Err("what was put is not there"));
    }
    stream.read_exact(&mut got)?;
    if got != [&size, value].concat() {
        return Ok(Err("what was got is not what was put"));
    }
    stream.write_all(&[&[2], &key[..]].concat())?;
    stream.read_exact(&mut said)?;
    Ok(if said == [OK] { Ok(()) } else { Err("what was put cannot be removed") })
}
