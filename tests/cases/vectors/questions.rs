// SPDX-License-Identifier: MIT OR Apache-2.0
//! Vectors of instants, Projects, Recipes, ActionIds and names.

use potluck_keys::pair::Pair;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, MAX_PROJECT_BYTES, MAX_RECIPE_BYTES, Project, Recipe, Secret};
use potluck_protocol::codec::Wire as _;
use potluck_protocol::digest::Digest;
use potluck_protocol::names::{DhtKey, NetworkId, Purpose};
use serde_json::json;

use super::Sheet;
use super::shape::{Item, text, with};
use super::show::{Show as _, hex};

pub(crate) fn sheets() -> Vec<Sheet> {
    vec![time(), project(), recipe(), action(), names()]
}

fn time() -> Sheet {
    let mut sheet = Sheet::new(
        "time",
        "Instants: `hex` is the encoding, `value` milliseconds, `text` the form in text, which drops what is less \
         than a second.",
    );
    for (name, time) in [
        ("the epoch", Time::from_millis(0)),
        ("a second", Time::from_millis(1_000)),
        ("some morning", Time::from_millis(1_795_240_800_000)),
        ("a part of a second", Time::from_millis(1_795_240_800_999)),
        ("a leap day", Time::from_millis(1_835_438_400_000)),
        ("the last", Time::MAX),
    ] {
        let hex = hex(&potluck_protocol::codec::encode(&time));
        let (value, text) = (time.show(), time.to_string());
        sheet.push(json!({ "name": name, "type": "Time", "hex": hex, "value": value, "text": text }));
    }
    sheet.bad("Time", "it lies beyond the year 9999", &Item::Uint(Time::MAX.as_millis() + 1).bytes());
    sheet.bad("Time", "it is the largest integer", &Item::Uint(u64::MAX).bytes());
    sheet.bad("Time", "it is negative", &Item::Negative(0).bytes());
    sheet.bad("Time", "it is text", &text("2026-11-21T06:00:00Z").bytes());
    sheet.bad("Time", "it is a float", &[0xfb, 0, 0, 0, 0, 0, 0, 0, 0]);
    sheet.bad("Time", "it is a big number", &[0xc2, 0x41, 0x01]);
    sheet.bad("Time", "a head of two bytes where one is enough", &[0x18, 0x17]);
    sheet.bad(
        "Time",
        "a head of nine bytes where five are enough",
        &[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    );
    sheet.bad("Time", "a head that means nothing", &[0x1c]);
    sheet.spoil("Time", &Item::Uint(1_000).bytes(), &[]);
    sheet
}

/// What is wrong with any text.
fn bad_text(sheet: &mut Sheet, kind: &str, good: &str) {
    sheet.spoil(kind, &text(good).bytes(), &[]);
    sheet.bad(kind, "it is a byte string", &Item::Bytes(good.as_bytes().to_vec()).bytes());
    sheet.bad(kind, "it is not UTF-8", &Item::Text(vec![b'a', 0xff]).bytes());
    sheet.bad(kind, "it is UTF-8 of a surrogate", &Item::Text(vec![0xed, 0xa0, 0x80]).bytes());
}

fn project() -> Sheet {
    let mut sheet = Sheet::new("project", "Projects, as fields: text in CBOR.");
    for name in ["default", "acme/web", "a/b/c", "0.-_", "...", &"x".repeat(MAX_PROJECT_BYTES)] {
        let shown = if name.len() > 20 { "the longest" } else { name };
        sheet.good("Project", shown, &Project::new(name).unwrap());
    }
    for (why, bad) in [
        ("it has no part", String::new()),
        ("two empty parts", "/".to_owned()),
        ("the last part is empty", "a/".to_owned()),
        ("the first part is empty", "/a".to_owned()),
        ("a part in the middle is empty", "a//b".to_owned()),
        ("an upper-case letter", "Acme".to_owned()),
        ("a space", "a b".to_owned()),
        ("a backslash", "a\\b".to_owned()),
        ("an at sign", "a@1".to_owned()),
        ("a part is two dots", "a/../b".to_owned()),
        ("a part is one dot", "a/./b".to_owned()),
        ("it is one dot", ".".to_owned()),
        ("a letter beyond ASCII", "ä".to_owned()),
        ("a NUL", "a\0".to_owned()),
        ("it has 97 bytes", "x".repeat(MAX_PROJECT_BYTES + 1)),
    ] {
        sheet.bad("Project", why, &text(&bad).bytes());
    }
    bad_text(&mut sheet, "Project", "acme/web");
    sheet
}

fn recipe() -> Sheet {
    let mut sheet = Sheet::new("recipe", "Recipes, as fields: text in CBOR.");
    let longest = format!("{}@4294967295", "r".repeat(37));
    for name in ["rustc@1", "bazel-ac@12", ".@1", "c@4294967295", &longest] {
        let shown = if name.len() > 20 { "the longest" } else { name };
        sheet.good("Recipe", shown, &Recipe::new(name).unwrap());
    }
    for (why, bad) in [
        ("it is nothing", String::new()),
        ("no version", "rustc".to_owned()),
        ("an empty version", "rustc@".to_owned()),
        ("version 0", "rustc@0".to_owned()),
        ("a leading zero", "rustc@01".to_owned()),
        ("no name", "@1".to_owned()),
        ("two versions", "rustc@1@2".to_owned()),
        ("a negative version", "rustc@-1".to_owned()),
        ("a plus sign", "rustc@+1".to_owned()),
        ("a version of more than 32 bits", "c@4294967296".to_owned()),
        ("an upper-case letter", "R@1".to_owned()),
        ("a slash", "a/b@1".to_owned()),
        ("digits beyond ASCII", "c@\u{661}".to_owned()),
        ("it has 49 bytes", format!("{}@1", "r".repeat(MAX_RECIPE_BYTES - 1))),
    ] {
        sheet.bad("Recipe", why, &text(&bad).bytes());
    }
    bad_text(&mut sheet, "Recipe", "rustc@1");
    sheet
}

fn action() -> Sheet {
    let mut sheet = Sheet::new(
        "action",
        "ActionIds. Of a Material, `hex` is what is hashed, `value` its parts (the key in hexadecimal) and `id` the \
         ActionId. Of a Secret, `hex` is the Project's secret, `material` what is hashed and `id` the ActionId with \
         the secret mixed in.",
    );
    let material = |project: &str, recipe: &str, key: &[u8]| {
        Item::List(vec![text(project), text(recipe), Item::Bytes(key.to_vec())]).bytes()
    };
    let id = |project: &str, recipe: &str, key: &[u8], secret: Option<&Secret>| {
        let (project, recipe) = (Project::new(project).unwrap(), Recipe::new(recipe).unwrap());
        ActionId::derive(&project, &recipe, key, secret).unwrap().show()
    };
    for (name, project, recipe, key) in [
        ("plain", "acme/web", "rustc@1", &b"0123456789abcdef"[..]),
        ("another project", "acme/app", "rustc@1", b"0123456789abcdef"),
        ("another version", "acme/web", "rustc@2", b"0123456789abcdef"),
        ("no key", "default", "ccache@1", b""),
        ("a key of 256 bytes", "default", "gradle@3", &[0xa5; 256]),
    ] {
        let hex_of = hex(&material(project, recipe, key));
        let value = json!({ "project": project, "recipe": recipe, "key": hex(key) });
        let id = id(project, recipe, key, None);
        sheet.push(json!({ "name": name, "type": "Material", "hex": hex_of, "value": value, "id": id }));
    }
    for (name, secret) in [("a secret", &b"sixteen bytes, or more"[..]), ("the shortest secret", &[7; 16])] {
        let key = b"0123456789abcdef";
        let id = id("acme/web", "rustc@1", key, Secret::new(secret).as_ref());
        let material = hex(&material("acme/web", "rustc@1", key));
        sheet.push(
            json!({ "name": name, "type": "Secret", "hex": hex(secret), "material": material, "id": id }),
        );
    }
    sheet.bad("Secret", "it has 15 bytes", &[7; 15]);
    sheet.bad("Secret", "it is empty", &[]);
    let good = material("acme/web", "rustc@1", b"key");
    sheet.spoil("Material", &good, &[]);
    sheet.bad("Material", "a bad project", &with(&good, &[0], text("Acme")));
    sheet.bad("Material", "a bad recipe", &with(&good, &[1], text("rustc")));
    sheet.bad("Material", "the key is text", &with(&good, &[2], text("key")));
    sheet.bad("Material", "project and recipe are swapped", &material("rustc@1", "acme/web", b"key"));
    sheet.bad("Material", "a key beyond 64 KiB", &with(&good, &[2], Item::Raw(vec![0x5a, 0, 1, 0, 1, 0])));
    sheet
}

fn names() -> Sheet {
    let mut sheet = Sheet::new(
        "names",
        "Names on the wire. `hex` is the name: of a Protocol the bytes of its string, of a NetworkIdText those of the \
         text form, else the name's own bytes. The other fields are what it is made from.",
    );
    let own = |name: &dyn Fn(&mut potluck_protocol::codec::Writer)| {
        let mut to = potluck_protocol::codec::Writer::new();
        name(&mut to);
        let Item::Bytes(bytes) = Item::of(&to.into_bytes()) else { panic!("a name is bytes") };
        hex(&bytes)
    };
    for key in [[0; 32], [0x5c; 32]] {
        let id = own(&|to| NetworkId::private(&key).write(to));
        let name = format!("a private network, key {:02x}..", key[0]);
        sheet.push(json!({ "name": name, "type": "PrivateNetwork", "hex": id, "key": hex(&key) }));
    }
    for public in ["public", "grüße"] {
        let id = own(&|to| NetworkId::public(public).write(to));
        let name = format!("the public network {public}");
        sheet.push(json!({ "name": name, "type": "PublicNetwork", "hex": id, "public": public }));
    }
    let network = NetworkId::public("public");
    for purpose in Purpose::ALL {
        let string = hex(purpose.protocol(&network).as_bytes());
        let name = format!("the protocol of {purpose:?}");
        let purpose = format!("{purpose:?}");
        sheet.push(json!({
            "name": name, "type": "Protocol", "hex": string, "network": network.to_string(), "purpose": purpose,
        }));
    }
    let signer = Pair::from_seed(&[1; 32], "").signer();
    let project = Project::new("acme/web").unwrap();
    let id = own(&|to| DhtKey::catalog(&signer, &project).write(to));
    sheet.push(json!({
        "name": "a catalog", "type": "CatalogKey", "hex": id, "signer": signer.show(), "project": "acme/web",
    }));
    for group in [0, 1, 300] {
        let id = own(&|to| DhtKey::holders(&signer, &project, group).write(to));
        sheet.push(json!({
            "name": format!("holders of group {group}"), "type": "HoldersKey", "hex": id,
            "signer": signer.show(), "project": "acme/web", "group": group,
        }));
    }
    let digest = Digest::of(b"");
    let id = own(&|to| DhtKey::blob(&digest).write(to));
    sheet.push(json!({ "name": "a blob", "type": "BlobKey", "hex": id, "digest": digest.show() }));
    let shown = network.to_string();
    sheet.push(json!({
        "name": "a network in text", "type": "NetworkIdText", "hex": hex(shown.as_bytes()), "value": shown,
    }));
    for (why, bad) in [
        ("upper case", shown.to_uppercase()),
        ("a digit less", shown[1..].to_owned()),
        ("a digit more", format!("{shown}0")),
        ("not a digit", format!("{}g", &shown[1..])),
        ("a prefix", format!("0x{}", &shown[2..])),
        ("nothing", String::new()),
    ] {
        sheet.bad("NetworkIdText", why, bad.as_bytes());
    }
    sheet
}
