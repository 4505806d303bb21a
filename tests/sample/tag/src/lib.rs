// SPDX-License-Identifier: MIT OR Apache-2.0
//! `#[derive(Tag)]`: a type that knows its name.

use proc_macro::TokenStream;
use quote::quote;
use syn::{DeriveInput, parse_macro_input};

/// Gives the type a method `tag` with its name.
#[proc_macro_derive(Tag)]
pub fn tag(input: TokenStream) -> TokenStream {
    let DeriveInput { ident, .. } = parse_macro_input!(input);
    let name = ident.to_string();
    quote! {
        impl #ident {
            /// The name of the type.
            pub fn tag(&self) -> &'static str {
                #name
            }
        }
    }
    .into()
}
