// SPDX-License-Identifier: MIT OR Apache-2.0
//! CBOR as a tree of items that can be bent at will, and the ways in which every encoding can be bent.

/// One item, well formed or not.
#[derive(Clone)]
pub(crate) enum Item {
    Uint(u64),
    /// -1 - n.
    Negative(u64),
    Bytes(Vec<u8>),
    /// Perhaps not UTF-8.
    Text(Vec<u8>),
    List(Vec<Item>),
    /// Keys in any order, perhaps twice.
    Map(Vec<(Item, Item)>),
    Tag(u64, Box<Item>),
    /// False, true and null.
    Simple(u8),
    /// Bytes that stand for themselves.
    Raw(Vec<u8>),
}

pub(crate) const NULL: Item = Item::Simple(0xf6);

pub(crate) fn text(text: &str) -> Item {
    Item::Text(text.as_bytes().to_vec())
}

/// The head of major type `major` in its shortest form.
pub(crate) fn head(major: u8, n: u64) -> Vec<u8> {
    let first = major << 5;
    let be = n.to_be_bytes();
    match n {
        0..=0x17 => vec![first | be[7]],
        0x18..=0xff => vec![first | 24, be[7]],
        0x100..=0xffff => [&[first | 25], &be[6..]].concat(),
        0x1_0000..=0xffff_ffff => [&[first | 26], &be[4..]].concat(),
        _ => [&[first | 27], &be[..]].concat(),
    }
}

impl Item {
    /// Reads a well-formed encoding.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        let item = Self::take(&mut rest);
        assert!(rest.is_empty(), "the encoding is one item");
        item
    }

    fn take(rest: &mut &[u8]) -> Self {
        fn cut<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
            let (taken, left) = rest.split_at(len);
            *rest = left;
            taken
        }
        let first = cut(rest, 1)[0];
        let n = match first & 31 {
            short @ 0..24 => u64::from(short),
            long => {
                let bytes = cut(rest, 1 << (long - 24));
                bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
            }
        };
        let len = usize::try_from(n).unwrap_or(usize::MAX);
        match first >> 5 {
            0 => Self::Uint(n),
            1 => Self::Negative(n),
            2 => Self::Bytes(cut(rest, len).to_vec()),
            3 => Self::Text(cut(rest, len).to_vec()),
            4 => Self::List((0..len).map(|_| Self::take(rest)).collect()),
            5 => Self::Map((0..len).map(|_| (Self::take(rest), Self::take(rest))).collect()),
            6 => Self::Tag(n, Box::new(Self::take(rest))),
            _ => Self::Simple(first),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Uint(n) => head(0, *n),
            Self::Negative(n) => head(1, *n),
            Self::Bytes(bytes) => [head(2, bytes.len() as u64), bytes.clone()].concat(),
            Self::Text(bytes) => [head(3, bytes.len() as u64), bytes.clone()].concat(),
            Self::List(items) => {
                head(4, items.len() as u64).into_iter().chain(items.iter().flat_map(Self::bytes)).collect()
            }
            Self::Map(pairs) => {
                let body = pairs.iter().flat_map(|(key, value)| [key.bytes(), value.bytes()].concat());
                head(5, pairs.len() as u64).into_iter().chain(body).collect()
            }
            Self::Tag(tag, item) => [head(6, *tag), item.bytes()].concat(),
            Self::Simple(byte) => vec![*byte],
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    /// The member at a path of field numbers and indices.
    pub(crate) fn at(&mut self, path: &[u64]) -> &mut Self {
        let Some((first, rest)) = path.split_first() else { return self };
        let member = match self {
            Self::List(items) => items.get_mut(usize::try_from(*first).unwrap()),
            Self::Map(pairs) => pairs
                .iter_mut()
                .find(|(key, _)| matches!(key, Self::Uint(n) if n == first))
                .map(|(_, value)| value),
            _ => None,
        };
        member.expect("the path leads somewhere").at(rest)
    }

    pub(crate) fn pairs(&mut self) -> &mut Vec<(Self, Self)> {
        match self {
            Self::Map(pairs) => pairs,
            _ => panic!("this is no map"),
        }
    }

    pub(crate) fn items(&mut self) -> &mut Vec<Self> {
        match self {
            Self::List(items) => items,
            _ => panic!("this is no array"),
        }
    }
}

/// `good` with the item at `path` replaced.
pub(crate) fn with(good: &[u8], path: &[u64], item: Item) -> Vec<u8> {
    bent(good, path, |place| *place = item)
}

/// `good` with the item at `path` changed.
pub(crate) fn bent(good: &[u8], path: &[u64], bend: impl FnOnce(&mut Item)) -> Vec<u8> {
    let mut item = Item::of(good);
    bend(item.at(path));
    item.bytes()
}

/// `good` with the first member of the list at `path` repeated until there are `count`.
pub(crate) fn many(good: &[u8], path: &[u64], count: usize) -> Vec<u8> {
    bent(good, path, |list| *list = Item::List(vec![list.items()[0].clone(); count]))
}

/// `good` without the first field of the record at `path`.
pub(crate) fn without_first(good: &[u8], path: &[u64]) -> Vec<u8> {
    bent(good, path, |record| drop(record.pairs().remove(0)))
}

/// Every way in which any encoding can be wrong, with why. `path` leads to a record in it.
pub(crate) fn spoil(good: &[u8], path: &[u64]) -> Vec<(&'static str, Vec<u8>)> {
    let mut bad = vec![
        ("it is empty", Vec::new()),
        ("it is truncated", good[..good.len() - 1].to_vec()),
        ("a byte follows it", [good, &[0]].concat()),
        ("its head is not the shortest", long_head(good)),
        ("its length is indefinite", indefinite(good)),
        ("it stands under a tag", [&[0xc1], good].concat()),
        ("it is null", vec![0xf6]),
    ];
    if let Item::List(items) = Item::of(good) {
        let more = items.iter().cloned().chain([NULL]).collect();
        bad.push(("the array has a member more", Item::List(more).bytes()));
        bad.push(("the array has a member less", Item::List(items[..items.len() - 1].to_vec()).bytes()));
    }
    if !matches!(Item::of(good).at(path), Item::Map(pairs) if !pairs.is_empty()) {
        return bad;
    }
    bad.extend([
        (
            "a field stands twice",
            bent(good, path, |record| {
                let first = record.pairs()[0].clone();
                record.pairs().insert(0, first);
            }),
        ),
        (
            "a field is unknown",
            bent(good, path, |record| record.pairs().push((Item::Uint(23), Item::Uint(0)))),
        ),
        ("a field is null", bent(good, path, |record| record.pairs()[0].1 = NULL)),
        ("a field is a float", bent(good, path, |record| record.pairs()[0].1 = Item::Raw(vec![0xf9, 0, 0]))),
        ("a field stands under a tag", bent(good, path, |record| tag_first(record.pairs()))),
        (
            "a field number is not in the shortest form",
            bent(good, path, |record| record.pairs()[0].0 = Item::Raw(vec![0x18, 1])),
        ),
        ("a field number is text", bent(good, path, |record| record.pairs()[0].0 = text("1"))),
    ]);
    if Item::of(good).at(path).pairs().len() > 1 {
        bad.push(("the fields are out of order", bent(good, path, |record| record.pairs().swap(0, 1))));
    }
    bad
}

fn tag_first(pairs: &mut [(Item, Item)]) {
    let inner = std::mem::replace(&mut pairs[0].1, NULL);
    pairs[0].1 = Item::Tag(1, Box::new(inner));
}

/// The outermost head with one byte more than it needs.
fn long_head(good: &[u8]) -> Vec<u8> {
    let longer = |first: u8, n: u8| [first & 0xe0 | 24, n];
    match good[0] & 31 {
        short @ 0..24 => [&longer(good[0], short), &good[1..]].concat(),
        24 => [&[good[0] & 0xe0 | 25, 0], &good[1..]].concat(),
        25 => [&[good[0] & 0xe0 | 26, 0, 0], &good[1..]].concat(),
        _ => [&[good[0] & 0xe0 | 27, 0, 0, 0, 0], &good[1..]].concat(),
    }
}

fn indefinite(good: &[u8]) -> Vec<u8> {
    let head = match good[0] & 31 {
        0..24 => 1,
        long => 1 + (1 << (long - 24)),
    };
    match good[0] >> 5 {
        // A string of one chunk.
        2 | 3 => [&[good[0] | 31], good, &[0xff]].concat(),
        // Integers and tags have no such form at all.
        0 | 1 | 6 => [&[good[0] | 31], &good[head..]].concat(),
        _ => [&[good[0] | 31], &good[head..], &[0xff]].concat(),
    }
}
