// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers Nix.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use potluck_keys::nix::{Sig, name_of};
use potluck_keys::pair::{Pair, PublicKey};
use potluck_protocol::action::Project;
use potluck_protocol::codec::Text;
use potluck_protocol::control::Answer as Known;
use potluck_protocol::digest::Sha256;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use sha2::Digest as _;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::map::{INFO, MAX_EXTRA_BYTES, NAR, NARINFO, Thing, Verb, file_of, key, map, recipe, url};
use super::narinfo::{MAX_BYTES, NarInfo, NarInfoError};
use crate::alias;
use crate::cache::{Cache as _, CacheError, Publication, Question};
use crate::engine::Engine;
use crate::front::listen::asked::Asked;
use crate::front::listen::body::{Body, Upload, UploadError};
use crate::front::listen::{Answer, Door, plain, said};
use crate::front::parts::{self, Part, PartsError};
use crate::observe::span;

/// How long a look-up may take unless the settings say otherwise.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest that Nix may wait for an answer to begin, with the transfer of what was found. It would wait for five
/// minutes itself, and asks about many paths at once.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that a claim may take once everything is here.
const CLAIM_WITHIN: Duration = Duration::from_secs(30);
/// Largest window of a zstd archive, as a power of two.
const MAX_WINDOW_LOG: u32 = 27;

/// One request of somebody.
struct Request {
    door: Door,
    project: Project,
}

/// Answers one request. Nix fails where a server says that it has failed, so whatever fails here is not there.
pub(super) async fn serve(door: Door, asked: Asked, upload: Upload) -> Answer {
    let request = Request { project: asked.project().clone(), door };
    match map(&asked) {
        Err(status) => plain(status),
        Ok((Verb::Put, thing)) => request.put(thing, upload).await,
        Ok((verb, thing)) => {
            let given = timeout(PATIENCE, request.get(&thing)).await;
            let mut answer = given.ok().flatten().unwrap_or_else(|| plain(StatusCode::NOT_FOUND));
            if verb == Verb::Head {
                *answer.body_mut() = Body::Empty;
            }
            answer
        }
    }
}

fn found(body: Body, kind: &'static str, size: u64) -> Answer {
    let mut answer = plain(StatusCode::OK);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    *answer.body_mut() = body;
    answer
}

fn text(text: String, kind: &'static str) -> Answer {
    let bytes = Bytes::from(text);
    let size = bytes.len() as u64;
    found(Body::Whole(bytes), kind, size)
}

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("it is no narinfo: {0}")]
    NarInfo(#[from] NarInfoError),
    #[error("{0}")]
    Wrong(&'static str),
    #[error(transparent)]
    Door(#[from] CacheError),
    #[error(transparent)]
    Parts(#[from] PartsError),
    #[error("it took too long to claim it")]
    Late,
}

/// What is known of a path: what was put, and the archive.
struct Path {
    info: NarInfo,
    file: Sha256,
    nar: Part,
}

impl Request {
    fn engine(&self) -> &Arc<Engine> {
        self.door.engine()
    }

    async fn get(&self, thing: &Thing) -> Option<Answer> {
        match thing {
            Thing::Info => Some(text(INFO.to_owned(), "text/x-nix-cache-info")),
            Thing::NarInfo(hash) => self.nar_info(hash).await,
            Thing::Nar { file, path } => {
                let nar = self.nar(file, path.as_deref()).await?;
                Some(found(parts::body(self.engine(), nar).await?, "application/x-nix-nar", nar.size))
            }
            Thing::Extra(key, kind) => {
                let Output::Blob(blob) = self.find(key.clone().into_bytes()).await? else { return None };
                let part = Part { digest: blob.digest, size: blob.size };
                Some(found(parts::body(self.engine(), part).await?, kind, blob.size))
            }
        }
    }

    async fn find(&self, key: Vec<u8>) -> Option<Output> {
        let deadline = self.door.deadline(DEADLINE);
        let question =
            Question { project: self.project.clone(), recipe: recipe(), keys: vec![key], deadline };
        match self.engine().lookup(question).await.ok()?.pop()? {
            Known::Hit(output) => Some(output),
            Known::Miss(_) => None,
        }
    }

    /// What is known of a path, if it fits together: nobody's word is taken for the archive's hash.
    async fn path(&self, hash: &str) -> Option<Path> {
        let engine = self.engine();
        let tree = parts::tree(engine, &self.find(key(hash)).await?).await?;
        let (info, nar) = (parts::part(&tree, NARINFO)?, parts::part(&tree, NAR)?);
        let info = NarInfo::parse(&parts::whole(engine, info, MAX_BYTES as u64).await?).ok()?;
        let file = info.file_hash.or_else(|| file_of(info.url()))?;
        if info.hash() != hash || info.file_size.is_some_and(|size| size != nar.size) {
            return None;
        }
        let same = alias::vouch(engine, vec![(nar.digest, file)]).await.ok()?;
        same.then_some(Path { info, file, nar })
    }

    async fn nar_info(&self, hash: &str) -> Option<Answer> {
        let Path { info, file, .. } = self.path(hash).await?;
        let url = url(hash, &file, info.url());
        // It may have any name where a peer has put it.
        if file_of(&url) != Some(file) {
            return None;
        }
        let mut info = self.checked(info).at(&url);
        if self.door.signs()
            && let Some(pair) = self.engine().own().pair()
        {
            let sig = Sig::sign(pair, &info.fingerprint());
            info = info.with([sig]);
        }
        Some(text(info.text(), "text/x-nix-narinfo"))
    }

    /// Without signatures that are said to be by a key which is known here, and are not.
    fn checked(&self, info: NarInfo) -> NarInfo {
        let policy = self.engine().trusting().now();
        let trusted = policy.rules().signers.values().map(|signer| signer.key.clone());
        let own = self.engine().own().pair().map(Pair::public);
        let keys: BTreeMap<String, PublicKey> =
            trusted.chain(own).map(|key| (name_of(&key.signer()), key)).collect();
        let fingerprint = info.fingerprint();
        info.without(|sig| keys.get(sig.name()).is_some_and(|key| !sig.is_of(key, &fingerprint)))
    }

    /// An archive: here under its own name, or that of a path.
    async fn nar(&self, file: &Sha256, path: Option<&str>) -> Option<Part> {
        let engine = self.engine();
        if let Some((digest, size)) = alias::locate(engine, *file).await.ok()?
            // Whoever is told that it is here will count on it.
            && engine.missing(vec![digest]).await.ok()?.is_empty()
        {
            return Some(Part { digest, size });
        }
        let known = self.path(path?).await?;
        (known.file == *file).then_some(known.nar)
    }

    async fn put(&self, thing: Thing, upload: Upload) -> Answer {
        let put = match thing {
            Thing::Info => upload.bytes(MAX_BYTES as u64).await.map(drop).map_err(Unkept::from),
            Thing::NarInfo(hash) => self.put_nar_info(&hash, upload).await,
            Thing::Nar { path: Some(_), .. } => return plain(StatusCode::METHOD_NOT_ALLOWED),
            Thing::Nar { file, path: None } => match alias::write(self.engine(), upload.read(), file).await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Unkept::Wrong("the archive has another hash than its name")),
                Err(error) => Err(error.into()),
            },
            Thing::Extra(key, _) => self.put_extra(key, upload).await,
        };
        match put {
            Ok(()) => plain(StatusCode::CREATED),
            Err(error @ (Unkept::NarInfo(_) | Unkept::Wrong(_) | Unkept::Upload(_))) => {
                said(StatusCode::BAD_REQUEST, error.to_string())
            }
            Err(error) => {
                tracing::warn!(%error, "something of Nix was not kept");
                said(StatusCode::NOT_FOUND, error.to_string())
            }
        }
    }

    async fn put_extra(&self, key: String, upload: Upload) -> Result<(), Unkept> {
        if upload.length() > MAX_EXTRA_BYTES {
            return Err(Unkept::Wrong("it is too large"));
        }
        let (digest, size) = self.engine().write(upload.read()).await?;
        let publication = self.publication(key.into_bytes(), Output::Blob(BlobOutput { digest, size }));
        self.engine().publish(publication).await?;
        Ok(())
    }

    fn publication(&self, key: Vec<u8>, output: Output) -> Publication {
        let labels = Labels { tool: Text::new("nix"), ..Labels::default() };
        Publication {
            project: self.project.clone(),
            recipe: recipe(),
            key,
            output,
            labels,
            taints: Vec::new(),
        }
    }

    async fn put_nar_info(&self, hash: &str, upload: Upload) -> Result<(), Unkept> {
        let info = NarInfo::parse(&upload.bytes(MAX_BYTES as u64).await?)?;
        if info.hash() != hash {
            return Err(Unkept::Wrong("it is of another path than its name"));
        }
        let file = file_of(info.url()).ok_or(Unkept::Wrong("its archive is not in this cache"))?;
        if info.file_hash.is_some_and(|hash| hash != file) {
            return Err(Unkept::Wrong("its archive has another hash than it says"));
        }
        let nar = alias::locate(self.engine(), file).await?;
        let (digest, size) = nar.ok_or(Unkept::Wrong("its archive was not put before it"))?;
        if info.file_size.is_some_and(|said| said != size) {
            return Err(Unkept::Wrong("its archive has another size than it says"));
        }
        let nar = Part { digest, size };
        if !self.is_archive(&info, file, nar).await? {
            return Err(Unkept::Wrong("its archive is not the one that it describes"));
        }
        timeout(CLAIM_WITHIN, self.claim(self.checked(info), nar)).await.unwrap_or(Err(Unkept::Late))
    }

    /// Whether a packed archive is the one that is described, as far as it can be unpacked here.
    async fn is_archive(&self, info: &NarInfo, file: Sha256, nar: Part) -> Result<bool, Unkept> {
        match info.compression.as_str() {
            "none" => Ok((file, nar.size) == (info.nar_hash, info.nar_size)),
            "zstd" => {
                let mut stretches = self.engine().read(nar.digest, None).await?;
                let (hash, size) = (info.nar_hash, info.nar_size);
                let runtime = Handle::current();
                let unpack = move || {
                    let mut counted = Counted { hasher: sha2::Sha256::new(), left: size };
                    let unpacked = (|| {
                        let mut unpacking = zstd::stream::write::Decoder::new(&mut counted)?;
                        unpacking.window_log_max(MAX_WINDOW_LOG)?;
                        while let Some(stretch) = runtime.block_on(stretches.recv()) {
                            unpacking.write_all(&stretch.map_err(io::Error::other)?)?;
                        }
                        unpacking.flush()
                    })();
                    unpacked.is_ok()
                        && counted.left == 0
                        && Sha256::from_bytes(counted.hasher.finalize().into()) == hash
                };
                Ok(span::blocking(unpack).await)
            }
            _ => Ok(true),
        }
    }

    /// Claims a path. Signatures on what is claimed already are added to it.
    async fn claim(&self, info: NarInfo, nar: Part) -> Result<(), Unkept> {
        let engine = self.engine();
        let before = self.path(info.hash()).await.filter(|before| before.info.agrees(&info));
        let (info, over) = match &before {
            Some(before) => {
                let both = before.info.clone().with(info.sigs());
                let over = both != before.info;
                (both, over)
            }
            None => (info, false),
        };
        let nar = before.map_or(nar, |before| before.nar);
        let (digest, size) = engine.write(info.text().as_bytes()).await?;
        let output = parts::output(engine, &[(NARINFO, Part { digest, size }), (NAR, nar)]).await?;
        let publication = self.publication(key(info.hash()), output);
        if over {
            engine.publish_over(publication).await?;
        } else {
            engine.publish(publication).await?;
        }
        Ok(())
    }
}

/// Takes so many bytes and no more, and hashes them.
struct Counted {
    hasher: sha2::Sha256,
    left: u64,
}

impl Write for &mut Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
