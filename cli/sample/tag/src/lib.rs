// SPDX-License-Identifier: MIT OR Apache-2.0
//! `#[derive(Tag)]`: a list of the variants of an enum, and a tag in kebab-case for each.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Result, parse_macro_input};

/// Adds `ALL` and `tag` to an enum whose variants have no fields.
#[proc_macro_derive(Tag)]
pub fn tag(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(input, "only an enum has tags"));
    };
    if let Some(variant) = data.variants.iter().find(|variant| !matches!(variant.fields, Fields::Unit)) {
        return Err(Error::new_spanned(variant, "a variant with a tag has no fields"));
    }
    let variants = data.variants.iter().map(|variant| &variant.ident).collect::<Vec<_>>();
    let tags = variants.iter().map(|variant| kebab(&variant.to_string()));
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics #name #arguments #bounds {
            /// Every variant, in the order of declaration.
            pub const ALL: &'static [Self] = &[#(Self::#variants),*];

            /// The name of the variant in kebab-case.
            #[must_use]
            pub const fn tag(&self) -> &'static str {
                match self {
                    #(Self::#variants => #tags,)*
                }
            }
        }
    })
}

/// `MainCourse` as `main-course`.
fn kebab(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 2);
    for letter in name.chars() {
        if letter.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(letter.to_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined_by_hyphens() {
        assert_eq!(kebab("MainCourse"), "main-course");
    }

    #[test]
    fn a_struct_has_no_tags() {
        assert!(syn::parse_str("struct Plate;").and_then(|plate| expand(&plate)).is_err());
    }
}
