//! The pages people see: who are you, and what went wrong. HTML and CSS only, fit for a phone.

use super::{params::Params, persona::Persona};

const STYLE: &str = include_str!("page.css");

/// The login page: a button for each persona; the request's own parameters travel along in the form.
pub(super) fn login(client: &str, params: &Params, personas: &[(Persona, bool)]) -> String {
    let hidden: String = params
        .iter()
        .map(|(name, value)| {
            format!(r#"<input type="hidden" name="{}" value="{}">"#, escape(name), escape(value))
        })
        .collect();
    let hint = params.get("login_hint");
    let buttons: String =
        personas.iter().map(|(persona, enabled)| button(persona, *enabled, persona.id == hint)).collect();
    let body = format!(
        r#"<p class="lead">Sign in to <strong>{}</strong></p>
<form method="post" action="authorize">{hidden}<ul>{buttons}</ul></form>
<p class="note">A demonstration: there are no passwords. Choose who you are.</p>"#,
        escape(client)
    );
    page("Who are you?", &body)
}

fn button(persona: &Persona, enabled: bool, hinted: bool) -> String {
    let initials: String =
        persona.name.split_whitespace().filter_map(|word| word.chars().next()).take(2).collect();
    let kind = if persona.is_agent { "agent" } else { "person" };
    let groups: String =
        persona.groups.iter().map(|group| format!("<span class=\"tag\">{}</span>", escape(group))).collect();
    let (attributes, state) = match (enabled, hinted) {
        (false, _) => (" disabled", "<span class=\"tag off\">disabled</span>"),
        (true, true) => (" autofocus", ""),
        (true, false) => ("", ""),
    };
    format!(
        r#"<li><button class="{kind}" name="persona" value="{id}"{attributes}><span class="avatar" aria-hidden="true">{initials}</span><span class="who"><span class="name">{name}</span><span class="id">{email}</span><span class="about">{about}</span><span class="tags">{groups}{state}</span></span></button></li>"#,
        id = escape(&persona.id),
        initials = escape(&initials.to_uppercase()),
        name = escape(&persona.name),
        email = escape(&persona.email),
        about = escape(&persona.about),
    )
}

/// A page for what cannot be answered by a redirect.
pub(super) fn problem(message: &str) -> String {
    page(
        "That did not work",
        &format!(r#"<p class="lead">{}</p><p class="note">Nobody was signed in.</p>"#, escape(message)),
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>{STYLE}</style></head>
<body><main><header><svg viewBox="0 0 24 24" aria-hidden="true"><path d="M3 21V9a9 9 0 0 1 18 0v12M8 21V6.5M12 21V5.5M16 21V6.5M3.5 11h17M3.5 16h17"/></svg><span>Portcullis demo identity</span></header>
<h1>{title}</h1>
{body}</main></body>
</html>
"#
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_says_cannot_become_markup() {
        let params = Params::parse(b"state=%22%3E%3Cscript%3E&%3Cx%3E=y").unwrap();
        let html = login("<b>client</b>", &params, &[(Persona::new("<i>", "\"<u>", &["<g>"]), true)]);
        for bad in ["<script>", "<x>", "<b>", "<i>", "<u>", "<g>"] {
            assert!(!html.contains(bad), "{bad}");
        }
    }
}
