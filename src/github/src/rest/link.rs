//! The `Link` header, which names the pages beside this one.

use http::{HeaderMap, header};

/// The address of the next page as GitHub writes it, if there is one. It is not followed: on GitHub Enterprise Server it is an
/// absolute address that octocrab would not log in to, and elsewhere it may use numeric ids.
pub(super) fn next(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::LINK)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(next_in)
}

fn next_in(links: &str) -> Option<&str> {
    let mut rest = links;
    // An address may hold commas and semicolons, so the brackets count first.
    while let Some((_, after)) = rest.split_once('<') {
        let (address, after) = after.split_once('>')?;
        let (parameters, following) = after.split_once(',').unwrap_or((after, ""));
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if is_next {
            return Some(address);
        }
        rest = following;
    }
    None
}

/// The value of `cursor` in an address' query, in the escaped form in which it stands there.
pub(super) fn cursor(address: &str) -> Option<&str> {
    let (_, query) = address.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("cursor="))
        .filter(|cursor| is_cursor(cursor))
}

/// Whether a text can stand in a query as it is.
pub(super) fn is_cursor(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%+=/:,".contains(&byte);
    !text.is_empty() && text.len() <= 1024 && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(links: &[&str]) -> HeaderMap {
        links
            .iter()
            .map(|link| (header::LINK, link.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_next_page_is_seen_in_any_link_header() {
        let table: [(&[&str], Option<&str>); 7] = [
            (
                &[r#"<https://x/?page=2>; rel="next", <https://x/?page=9>; rel="last""#],
                Some("https://x/?page=2"),
            ),
            (&["<https://x/?page=9>; rel=last", "<x>; REL=next"], Some("x")),
            (
                &[r#"<https://x/?a=1,2;3>; title="b"; rel="next""#],
                Some("https://x/?a=1,2;3"),
            ),
            (&[r#"<https://x/?rel=next>; rel="prev""#], None),
            (&["", ";;,,="], None),
            (&["<x; rel=next"], None),
            (&[], None),
        ];
        for (links, next_page) in table {
            assert_eq!(next(&of(links)), next_page, "{links:?}");
        }
    }

    #[test]
    fn a_cursor_is_taken_as_it_stands_or_not_at_all() {
        let table = [
            ("https://x/deliveries?per_page=100&cursor=v1_12", Some("v1_12")),
            (
                "/deliveries?cursor=v1%5F12%3D%3D&per_page=100",
                Some("v1%5F12%3D%3D"),
            ),
            ("/deliveries?cursor=a#b", Some("a")),
            ("/deliveries?page=2", None),
            ("/deliveries?cursor=", None),
            ("/deliveries?xcursor=a", None),
            ("/deliveries?cursor=a b", None),
            ("/deliveries", None),
        ];
        for (address, found) in table {
            assert_eq!(cursor(address), found, "{address}");
        }
    }
}
