// SPDX-License-Identifier: MIT OR Apache-2.0
//! iroh-blobs doing what potluck's network benchmark does: one endpoint has files, another one on the same machine
//! fetches them into a store on the disk that is made anew each time.
//!
//!     potluck-bench-iroh SCRATCH IN_FLIGHT FILE…
//!
//! Makes itself ready, says `ready`, and for each line that it reads fetches all files once over a fresh connection, so
//! many at a time, and prints the seconds of wall clock and of processor time that this took. No relay, no look-up of
//! addresses: nothing leaves the loopback interface.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use futures_lite::StreamExt as _;
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobsProtocol, Hash};

type Failure = Box<dyn std::error::Error>;

async fn endpoint() -> Result<Endpoint, Failure> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled).clear_ip_transports();
    Ok(builder.bind_addr("127.0.0.1:0")?.bind().await?)
}

/// Seconds of processor time that this process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

async fn fetch(
    from: &EndpointAddr,
    into: &Path,
    (hashes, in_flight): (&[Hash], usize),
) -> Result<(), Failure> {
    let store = FsStore::load(into).await?;
    let endpoint = endpoint().await?;
    let connection = endpoint.connect(from.clone(), iroh_blobs::ALPN).await?;
    let remote = store.remote();
    let fetching =
        futures_lite::stream::iter(hashes).map(|hash| remote.fetch(connection.clone(), *hash).complete());
    let mut fetching =
        std::pin::pin!(futures_buffered::BufferedStreamExt::buffered_unordered(fetching, in_flight));
    while let Some(done) = fetching.next().await {
        done?;
    }
    connection.close(0_u32.into(), b"done");
    endpoint.close().await;
    store.shutdown().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let usage = "potluck-bench-iroh SCRATCH IN_FLIGHT FILE…";
    let scratch = PathBuf::from(args.next().ok_or(usage)?);
    let in_flight = args.next().ok_or(usage)?.parse()?;
    let store = FsStore::load(scratch.join("provider")).await?;
    let mut hashes = Vec::new();
    for path in args {
        hashes.push(store.blobs().add_path(std::path::absolute(path)?).await?.hash);
    }
    let provider = endpoint().await?;
    let at = provider
        .bound_sockets()
        .into_iter()
        .fold(EndpointAddr::new(provider.id()), EndpointAddr::with_ip_addr);
    let router = Router::builder(provider).accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None)).spawn();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        let into = scratch.join("fetcher");
        let (start, used) = (Instant::now(), cpu());
        fetch(&at, &into, (&hashes, in_flight)).await?;
        println!("{} {}", start.elapsed().as_secs_f64(), cpu() - used);
        std::fs::remove_dir_all(&into)?;
    }
    // The store goes with it.
    router.shutdown().await?;
    Ok(())
}
