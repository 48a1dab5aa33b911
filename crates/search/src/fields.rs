//! The fields that can be asked for by name.

/// One field.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Field {
    /// Its name in queries.
    pub name: &'static str,
    /// What it holds, for people.
    pub help: &'static str,
    /// Whether it has so few different values that the index keeps a list of them.
    pub(crate) few: bool,
}

/// Another name for a field.
const ALIASES: [(&str, &str); 3] = [("ns", "namespace"), ("who", "user"), ("kind", "type")];

macro_rules! fields {
    ($($name:ident $few:literal $help:literal)*) => {
        /// All fields, in the order in which help shows them.
        pub static FIELDS: &[Field] = &[$(Field { name: stringify!($name), help: $help, few: $few }),*];
    };
}

fields! {
    type true "request, event (a decision, a grant, a configuration) or log (opened, closed, repaired)"
    user true "the user's name, as the API server knows it"
    group true "a group of the user"
    issuer true "who vouched for the identity"
    subject true "the subject at that issuer, or the actor it works for"
    verb true "get, list, watch, create, update, patch, delete; exec and the like count as create"
    resource true "as RBAC names it: secrets, pods/exec"
    apigroup true "the API group, such as apps"
    namespace true "the namespace (ns for short)"
    name false "the object's name"
    cluster true "the cluster, if not the default one"
    path false "the path of what is no resource, such as /version"
    dryrun true "true for a dry run"
    status true "the status code, or its class: 403, 4xx"
    end true "completed, refused, aborted, failed or unknown"
    decision true "what policy said: allow, deny or hold"
    rule true "the policy rule that decided"
    code true "the refusal's code, such as policy/denied"
    masked true "a mask rule that replaced something in the answer"
    event true "an event's kind: held, approved, granted, revoked, configloaded, …"
    ticket false "the ticket of a held request"
    approver true "who approved or denied"
    grant false "the grant"
    profile true "the grant's profile"
    task true "the grant's task"
    session false "the session: a grant's id, or one client's work until it pauses"
    id false "the request's id (its Audit-ID)"
    parent false "the request that this one was made for by the gateway"
    agent true "the first word of the user agent, such as kubectl/v1.36.2"
    source true "the address it came from"
    container true "the container of an exec or attach"
    exit true "the exit status of a command"
    recorded true "true if there is a recording"
    cut true "true if only the beginning of its text can be searched: 1 MiB, of a recording 4 MiB of its first part"
}

/// The field with this name.
pub(crate) fn named(name: &str) -> Option<&'static Field> {
    let name = name.to_ascii_lowercase();
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name.as_str(), |(_, field)| field);
    FIELDS.iter().find(|field| field.name == name)
}

/// What to say of a name that is no field's.
pub(crate) fn unknown(name: &str) -> String {
    let nearest = FIELDS
        .iter()
        .map(|field| (strsim::jaro_winkler(&name.to_ascii_lowercase(), field.name), field.name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, field)) if likeness > 0.8 => {
            format!("there is no field `{name}`; did you mean `{field}`?")
        }
        _ => format!("there is no field `{name}`; put text with a colon in it into quotes"),
    }
}
