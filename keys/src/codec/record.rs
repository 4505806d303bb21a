// SPDX-License-Identifier: MIT OR Apache-2.0
//! Declaring records, choices and codes: both directions from one definition.

use super::{CodecError, Fault, Reader};

/// Walks the fields of a record in ascending order of their numbers. Made for [`record!`](crate::record).
#[doc(hidden)]
pub struct Fields {
    record: &'static str,
    left: usize,
    last: Option<u64>,
    next: Option<u64>,
}

impl Fields {
    #[doc(hidden)]
    pub fn new(from: &mut Reader<'_>, record: &'static str, max: usize) -> Result<Self, CodecError> {
        Ok(Self { record, left: from.map(max)?, last: None, next: None })
    }

    fn peek(&mut self, from: &mut Reader<'_>) -> Result<Option<u64>, CodecError> {
        if self.next.is_none() && self.left > 0 {
            let number = from.uint()?;
            if self.last.is_some_and(|last| number <= last) {
                return Err(from.fault(Fault::NotCanonical { why: "fields out of order or twice" }));
            }
            self.left -= 1;
            self.last = Some(number);
            self.next = Some(number);
        }
        Ok(self.next)
    }

    /// Whether the next field is `number`; a smaller one that nobody asked for is unknown.
    #[doc(hidden)]
    pub fn take(&mut self, from: &mut Reader<'_>, number: u64) -> Result<bool, CodecError> {
        match self.peek(from)? {
            Some(found) if found == number => {
                self.next = None;
                Ok(true)
            }
            Some(found) if found < number => Err(self.unknown(from, found)),
            _ => Ok(false),
        }
    }

    #[doc(hidden)]
    pub fn missing(&self, from: &Reader<'_>, field: &'static str) -> CodecError {
        from.fault(Fault::MissingField { record: self.record, field })
    }

    fn unknown(&self, from: &Reader<'_>, field: u64) -> CodecError {
        from.fault(Fault::UnknownField { record: self.record, field })
    }

    #[doc(hidden)]
    pub fn end(mut self, from: &mut Reader<'_>) -> Result<(), CodecError> {
        match self.peek(from)? {
            Some(found) => Err(self.unknown(from, found)),
            None => Ok(()),
        }
    }
}

/// Declares a struct and its encoding: a map from field numbers to values.
///
/// ```text
/// record! {
///     /// What it is.
///     pub struct Thing, check Thing::check {      // the check is optional
///         /// Always there.
///         1 => one size: u64,
///         /// Present or absent, never null.
///         2 => opt parent: Digest,
///         /// At most 16; an empty list is an absent field.
///         3 => many(16) taints: Taint,
///     }
/// }
/// ```
/// Numbers must ascend. `check` is called with the decoded value and names the rule that it breaks.
#[macro_export]
macro_rules! record {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(, check $check:path)? {
            $( $(#[$fmeta:meta])* $number:literal => $kind:ident $(($max:expr))? $field:ident : $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[$fmeta])* pub $field: $crate::record!(@type $kind $ty), )*
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                let present = [$( $crate::record!(@present $kind self.$field) ),*];
                let count: usize = present.iter().filter(|present: &&bool| **present).count();
                to.map(count);
                $( $crate::record!(@write $kind to, $number, self.$field); )*
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                #[allow(unused_mut, clippy::allow_attributes, reason = "a record without fields reads none")]
                let mut fields = $crate::codec::Fields::new(
                    from, stringify!($name), <[u64]>::len(&[$($number),*]))?;
                let value = from.nested(|from| {
                    $( let $field = $crate::record!(@read $kind $(($max))? fields, from, $number, $field, $ty); )*
                    fields.end(from)?;
                    Ok($name { $($field),* })
                })?;
                $( $check(&value).map_err(|why| from.invalid(stringify!($name), why))?; )?
                Ok(value)
            }
        }
    };
    (@type one $ty:ty) => { $ty };
    (@type opt $ty:ty) => { ::std::option::Option<$ty> };
    (@type many $ty:ty) => { ::std::vec::Vec<$ty> };
    (@present one $place:expr) => { true };
    (@present opt $place:expr) => { $place.is_some() };
    (@present many $place:expr) => { !$place.is_empty() };
    (@write one $to:ident, $number:literal, $place:expr) => {
        $to.uint($number);
        $crate::codec::Wire::write(&$place, $to);
    };
    (@write opt $to:ident, $number:literal, $place:expr) => {
        if let Some(value) = &$place {
            $to.uint($number);
            $crate::codec::Wire::write(value, $to);
        }
    };
    (@write many $to:ident, $number:literal, $place:expr) => {
        if !$place.is_empty() {
            $to.uint($number);
            $to.array($place.len());
            for value in &$place {
                $crate::codec::Wire::write(value, $to);
            }
        }
    };
    (@read one $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? {
            <$ty as $crate::codec::Wire>::read($from)?
        } else {
            return Err($fields.missing($from, stringify!($field)));
        }
    };
    (@read opt $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? { Some(<$ty as $crate::codec::Wire>::read($from)?) } else { None }
    };
    (@read many ($max:expr) $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? {
            let values = $from.list::<$ty>($max)?;
            if values.is_empty() {
                return Err($from.fault($crate::codec::Fault::NotCanonical { why: "an empty list is left out" }));
            }
            values
        } else {
            ::std::vec::Vec::new()
        }
    };
}

/// Declares an enum of records and its encoding: an array of the variant's number and its body.
///
/// ```text
/// choice! {
///     /// What it is.
///     pub enum Output {
///         /// One Blob.
///         0 => Blob(BlobRef),
///         /// A Tree.
///         1 => Tree(TreeRef),
///     }
/// }
/// ```
#[macro_export]
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$vmeta:meta])* $number:literal => $variant:ident($body:ty), )+
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $( $(#[$vmeta])* $variant($body), )+
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                to.array(2);
                match self {
                    $( $name::$variant(body) => {
                        to.uint($number);
                        $crate::codec::Wire::write(body, to);
                    } )+
                }
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                from.array_of(2)?;
                from.nested(|from| match from.uint()? {
                    $( $number => Ok($name::$variant(<$body as $crate::codec::Wire>::read(from)?)), )+
                    variant => Err(from.fault($crate::codec::Fault::UnknownVariant {
                        choice: stringify!($name), variant,
                    })),
                })
            }
        }
    };
}

/// Declares an enum without bodies and its encoding: the variant's number.
#[macro_export]
macro_rules! code {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$vmeta:meta])* $number:literal => $variant:ident, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $( $(#[$vmeta])* $variant = $number, )+
        }

        impl $name {
            /// Every variant, in the order of their numbers.
            $vis const ALL: &[Self] = &[$( Self::$variant, )+];
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                to.uint(match self { $( Self::$variant => $number, )+ });
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                match from.uint()? {
                    $( $number => Ok(Self::$variant), )+
                    variant => Err(from.fault($crate::codec::Fault::UnknownVariant {
                        choice: stringify!($name), variant,
                    })),
                }
            }
        }
    };
}
