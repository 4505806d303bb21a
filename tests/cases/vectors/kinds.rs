// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the code says to a vector: the encoding it would have made, and what it read.

use potluck_keys::pair::Signer;
use potluck_keys::signed::{Claim, Signed};
use potluck_keys::standing::{Revocation, Succession};
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, MAX_KEY_BYTES, Project, Recipe, Secret};
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES, Segment};
use potluck_protocol::codec::{CodecError, Reader, Wire, Writer, decode, encode};
use potluck_protocol::control::{Reply, Request};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};
use potluck_protocol::frame::{HEADER_BYTES, Message, body_len, read_body};
use potluck_protocol::head::{Head, HeadSet};
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use potluck_protocol::peer::{Ask, Blobs, Heads, Hello};
use potluck_protocol::piece::{MAX_PIECE_LIST_BYTES, PieceHasher, PieceList, piece_range};
use potluck_protocol::tree::Tree;
use serde_json::{Value, json};

use super::blobs::pattern;
use super::lists::{ids, parameters};
use super::show::{Show, hex, unhex};

/// The encoding made of what was read, and what was read.
type Read = (Vec<u8>, Value);

/// Whether the code reads from the vector all that the vector says.
pub(crate) fn agree(vector: &Value, bytes: &[u8]) -> Result<(), String> {
    let (again, read) = accept(vector, bytes)?;
    if again != bytes {
        return Err(format!("encoded again it is {}", hex(&again)));
    }
    for (key, want) in vector.as_object().expect("a vector is an object") {
        let given = ["name", "type", "hex"].contains(&key.as_str());
        if !given && read.get(key).is_some_and(|found| found != want) {
            return Err(format!("{key} is {}, not {want}", read[key]));
        }
    }
    let missing = read.as_object().expect("made as one").keys().find(|key| vector.get(key).is_none());
    missing.map_or(Ok(()), |key| Err(format!("it says nothing about {key}")))
}

/// Reads the bytes as what the vector says they are.
pub(crate) fn accept(vector: &Value, bytes: &[u8]) -> Result<Read, String> {
    match vector["type"].as_str().expect("a vector has a type") {
        "Time" => plain::<Time>(bytes, 9).map(|(again, value)| {
            let time: Time = decode(bytes, 9).expect("just decoded");
            (again, json!({ "value": value["value"], "text": time.to_string() }))
        }),
        "Project" => plain::<Project>(bytes, 100),
        "Recipe" => plain::<Recipe>(bytes, 60),
        "Material" => material(bytes, None),
        "Secret" => secret(vector, bytes),
        "Digest" => Ok((bytes.to_vec(), json!({ "digest": Digest::of(bytes).to_string() }))),
        "DigestField" => plain::<Digest>(bytes, 40),
        "DigestText" => name_text::<Digest>(bytes),
        "NetworkIdText" => name_text::<NetworkId>(bytes),
        "PieceList" => piece_list(vector, bytes),
        "Tree" => tree(bytes),
        "SignedEntry" => signed::<Entry>(bytes),
        "SignedHead" => signed::<Head>(bytes),
        "SignedRevocation" => signed::<Revocation>(bytes),
        "SignedSuccession" => signed::<Succession>(bytes),
        "Entry" => plain::<Entry>(bytes, Entry::MAX_BYTES),
        "Head" => plain::<Head>(bytes, Head::MAX_BYTES),
        "Revocation" => plain::<Revocation>(bytes, Revocation::MAX_BYTES),
        "Succession" => plain::<Succession>(bytes, Succession::MAX_BYTES),
        "HeadSet" => head_set(vector, bytes),
        "Catalog" => plain::<Catalog>(bytes, MAX_CATALOG_BYTES),
        "Segment" => segment(bytes),
        "Filter" => filter(vector, bytes),
        "Hello" => plain::<Hello>(bytes, Hello::MAX_BYTES),
        "Heads" => plain::<Heads>(bytes, Heads::MAX_BYTES),
        "Ask" => plain::<Ask>(bytes, Ask::MAX_BYTES),
        "Blobs" => plain::<Blobs>(bytes, Blobs::MAX_BYTES),
        "Request" => plain::<Request>(bytes, Request::MAX_BYTES),
        "Reply" => plain::<Reply>(bytes, Reply::MAX_BYTES),
        "HelloFrame" => framed::<Hello>(bytes),
        "HeadsFrame" => framed::<Heads>(bytes),
        "AskFrame" => framed::<Ask>(bytes),
        "BlobsFrame" => framed::<Blobs>(bytes),
        "RequestFrame" => framed::<Request>(bytes),
        "ReplyFrame" => framed::<Reply>(bytes),
        "PrivateNetwork" => Ok(derived(&NetworkId::private(&bytes_of(vector, "key")))),
        "PublicNetwork" => Ok(derived(&NetworkId::public(text_of(vector, "public")))),
        "CatalogKey" => Ok(derived(&DhtKey::catalog(&signer_of(vector), &project_of(vector)))),
        "HoldersKey" => {
            let group = u32::try_from(vector["group"].as_u64().expect("a number")).expect("of 32 bits");
            Ok(derived(&DhtKey::holders(&signer_of(vector), &project_of(vector), group)))
        }
        "BlobKey" => Ok(derived(&DhtKey::blob(&Digest::from_bytes(bytes_of(vector, "digest"))))),
        "Protocol" => Ok(protocol(vector)),
        other => panic!("no such type: {other}"),
    }
}

fn text_of<'v>(vector: &'v Value, key: &str) -> &'v str {
    vector[key].as_str().unwrap_or_else(|| panic!("{key} is text"))
}

fn bytes_of<const N: usize>(vector: &Value, key: &str) -> [u8; N] {
    unhex(text_of(vector, key)).try_into().expect("of the right length")
}

fn signer_of(vector: &Value) -> Signer {
    Signer::from_bytes(bytes_of(vector, "signer"))
}

fn project_of(vector: &Value) -> Project {
    Project::new(text_of(vector, "project")).expect("a good name")
}

fn plain<T: Wire + Show>(bytes: &[u8], max: usize) -> Result<Read, String> {
    let value: T = decode(bytes, max).map_err(|error| error.to_string())?;
    Ok((encode(&value), json!({ "value": value.show() })))
}

fn derived(name: &impl Wire) -> Read {
    // A name of bytes is encoded as they, after a head of one or two bytes.
    let encoded = encode(name);
    let head = if encoded[0] == 0x58 { 2 } else { 1 };
    (encoded[head..].to_vec(), json!({}))
}

fn protocol(vector: &Value) -> Read {
    let network = NetworkId::from_bytes(bytes_of(vector, "network"));
    let wanted = text_of(vector, "purpose");
    let purpose = Purpose::ALL.into_iter().find(|purpose| format!("{purpose:?}") == wanted);
    (purpose.expect("a known purpose").protocol(&network).into_bytes(), json!({}))
}

fn read_material<'a>(from: &mut Reader<'a>) -> Result<(Project, Recipe, &'a [u8]), CodecError> {
    from.array_of(3)?;
    let parts = (Project::read(from)?, Recipe::read(from)?, from.bytes(MAX_KEY_BYTES)?);
    from.end()?;
    Ok(parts)
}

/// What is hashed to an ActionId. Nothing sends it; it is read here only to hold its parts to their rules.
fn material(bytes: &[u8], secret: Option<&Secret>) -> Result<Read, String> {
    let parts = read_material(&mut Reader::new(bytes)).map_err(|error| error.to_string())?;
    let (project, recipe, key) = parts;
    let id = ActionId::derive(&project, &recipe, key, secret).map_err(|error| error.to_string())?;
    let mut again = Writer::new();
    again.array(3);
    project.write(&mut again);
    recipe.write(&mut again);
    again.bytes(key);
    let value = json!({ "project": project.show(), "recipe": recipe.show(), "key": hex(key) });
    Ok((again.into_bytes(), json!({ "value": value, "id": id.show() })))
}

/// The bytes are the secret; the vector holds the material that it is mixed with.
fn secret(vector: &Value, bytes: &[u8]) -> Result<Read, String> {
    let secret = Secret::new(bytes).ok_or("it is too short")?;
    let (material, read) = material(&unhex(text_of(vector, "material")), Some(&secret))?;
    Ok((bytes.to_vec(), json!({ "material": hex(&material), "id": read["id"] })))
}

fn name_text<T: std::str::FromStr + ToString + Show>(bytes: &[u8]) -> Result<Read, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let name: T = text.parse().map_err(|_| "not the text of a name")?;
    Ok((name.to_string().into_bytes(), json!({ "value": name.show() })))
}

fn piece_list(vector: &Value, bytes: &[u8]) -> Result<Read, String> {
    let list: PieceList = decode(bytes, MAX_PIECE_LIST_BYTES).map_err(|error| error.to_string())?;
    let again = encode(&list);
    let mut read = json!({ "value": list.show() });
    if vector.get("digest").is_some() {
        let digest = Digest::from_bytes(bytes_of(vector, "digest"));
        let pieces = list.clone().verify(&digest).map_err(|error| error.to_string())?;
        let size = vector["length"].as_u64().ok_or("no length")?;
        let data = pattern(size);
        let mut hasher = PieceHasher::new();
        hasher.update(&data);
        let made = hasher.finish().map_err(|error| error.to_string())?;
        if made != pieces {
            return Err("the list is another than the one that is made".to_owned());
        }
        for index in 0..pieces.count() {
            let range = piece_range(size, index).expect("a piece of the blob");
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            pieces.check(index, &data[range]).map_err(|error| error.to_string())?;
        }
        read["digest"] = made.digest().show().expect("it has a form");
        read["length"] = made.size().into();
    }
    Ok((again, read))
}

fn tree(bytes: &[u8]) -> Result<Read, String> {
    let tree = Tree::decode(bytes).map_err(|error| error.to_string())?;
    Ok((tree.encode(), json!({ "value": tree.show(), "digest": Digest::from(&tree).show() })))
}

fn signed<T: Claim + Show>(bytes: &[u8]) -> Result<Read, String> {
    let signed = Signed::<T>::decode(bytes).map_err(|error| error.to_string())?;
    let claim = signed.authentic().map_err(|error| error.to_string())?;
    let signers: Vec<_> = signed.signers().map(|signer| signer.show()).collect();
    let messages: Vec<_> =
        signed.signers().map(|signer| hex(&message::<T>(&signer, signed.payload()))).collect();
    let read = json!({
        "signers": signers,
        "messages": messages,
        "payload": hex(signed.payload()),
        "digest": claim_digest(&signed).show(),
        "value": claim.show(),
    });
    Ok((signed.bytes().to_vec(), read))
}

/// What a signer signs, put together independently of the code that does it.
pub(crate) fn message<T: Claim>(signer: &Signer, payload: &[u8]) -> Vec<u8> {
    let header =
        [b"\xa3\x01\x27\x04\x58\x20", &signer.as_bytes()[..], b"\x10", &encode_text(T::CONTEXT)].concat();
    let mut to = Writer::new();
    to.array(4);
    to.text("Signature1");
    to.bytes(&header);
    to.bytes(&[]);
    to.bytes(payload);
    to.into_bytes()
}

fn encode_text(text: &str) -> Vec<u8> {
    let mut to = Writer::new();
    to.text(text);
    to.into_bytes()
}

fn head_set(vector: &Value, bytes: &[u8]) -> Result<Read, String> {
    let set =
        HeadSet::decode(bytes, signer_of(vector), project_of(vector)).map_err(|error| error.to_string())?;
    let heads: Vec<_> = set.heads().map(|head| head.authentic().expect("verified").show()).collect();
    Ok((set.encode(), json!({ "value": heads })))
}

fn segment(bytes: &[u8]) -> Result<Read, String> {
    let segment = Segment::decode(bytes.to_vec()).map_err(|error| error.to_string())?;
    Ok((segment.bytes().to_vec(), json!({ "value": segment.show() })))
}

fn filter(vector: &Value, bytes: &[u8]) -> Result<Read, String> {
    let filter = Filter::decode(bytes).map_err(|error| error.to_string())?;
    let mut read = json!({ "value": parameters(bytes) });
    if let Some(members) = vector["members"].as_u64() {
        let found = ids(0, members).filter(|id| filter.contains(id)).count() as u64;
        let hits = (10_000_u64..20_000).filter(|n| ids(*n, n + 1).all(|id| filter.contains(&id)));
        read["members"] = found.into();
        read["hits"] = hits.collect();
    }
    Ok((filter.encode(), read))
}

fn framed<M: Message + Show>(bytes: &[u8]) -> Result<Read, String> {
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or("no header")?;
    let len = body_len::<M>(*header).map_err(|error| error.to_string())?;
    if body.len() != len {
        return Err(format!("{} bytes follow a header that says {len}", body.len()));
    }
    let message: M = read_body(body).map_err(|error| error.to_string())?;
    let again = potluck_protocol::frame::frame(&message).map_err(|error| error.to_string())?;
    Ok(([&again.begin[..], &again.end].concat(), json!({ "value": message.show() })))
}
