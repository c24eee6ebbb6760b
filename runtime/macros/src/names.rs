//! Names of service types and ports, derived from Rust names.

use proc_macro2::Ident;
use syn::{Error, LitStr, Result};

/// Returns the name of a port: that of a method or parameter, with dashes.
pub(crate) fn port_name(ident: &Ident) -> String {
    let name = ident.to_string();
    let name = name.strip_prefix("r#").unwrap_or(&name);
    name.trim_matches('_').replace('_', "-")
}

/// Returns the name of a type in kebab case: `HttpIn` is `http-in`.
pub(crate) fn type_name(ident: &Ident) -> String {
    let mut name = String::new();
    let chars: Vec<char> = ident.to_string().chars().collect();
    for (index, char) in chars.iter().enumerate() {
        let after_lower = index > 0 && !chars[index - 1].is_uppercase();
        let before_lower = chars.get(index + 1).is_some_and(|next| next.is_lowercase());
        if char.is_uppercase() && index > 0 && (after_lower || before_lower) {
            name.push('-');
        }
        name.extend(char.to_lowercase());
    }
    name.trim_matches(['-', '_']).replace('_', "-")
}

/// # Errors
/// The text is not a name that manifests accept.
pub(crate) fn checked(name: &LitStr) -> Result<String> {
    let text = name.value();
    let starts = text.starts_with(|char: char| char.is_ascii_lowercase());
    let allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
    match starts && text.chars().all(allowed) {
        true => Ok(text),
        false => Err(Error::new(
            name.span(),
            format!(
                "{text:?} is not a name: write small letters, digits and dashes, beginning with a letter"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rust_names() {
        let ident = |text: &str| Ident::new(text, proc_macro2::Span::call_site());
        for (rust, name) in [
            ("Stock", "stock"),
            ("HttpIn", "http-in"),
            ("SMSGateway", "sms-gateway"),
            ("Http2Client", "http2-client"),
            ("greeter", "greeter"),
            ("send_mail", "send-mail"),
        ] {
            assert_eq!(type_name(&ident(rust)), name);
        }
        assert_eq!(port_name(&ident("by_customer")), "by-customer");
        assert_eq!(port_name(&ident("_orders")), "orders");
        assert_eq!(
            port_name(&Ident::new_raw("type", proc_macro2::Span::call_site())),
            "type"
        );
    }
}
