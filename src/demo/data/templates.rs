//! The sentences of notes and mails, with slots for names, skills and numbers.
//! `talk` fills them. Parsed once; a slot that is misspelt fails the first use, and so the tests.

use std::sync::LazyLock;

/// What stands behind a piece of literal text.
pub(super) enum Slot {
    None,
    First,
    Last,
    Skill,
    Title,
    Work,
    Phone,
    Email,
    Ssn,
    Rate,
    Day,
    Count,
}

/// Literal text, each piece followed by a slot.
pub(super) struct Template {
    pub(super) parts: Vec<(&'static str, Slot)>,
}

/// A kind of activity: how its notes begin and end, and how long it takes at most (0: no time).
pub(super) struct Activity {
    pub(super) name: &'static str,
    pub(super) minutes: u64,
    pub(super) openings: Vec<Template>,
    pub(super) endings: Vec<Template>,
}

/// A mail's subject and body.
pub(super) struct Mail {
    pub(super) subject: Template,
    pub(super) body: Template,
}

/// Sentences that give something personal away.
pub(super) struct Asides {
    pub(super) phone: Vec<Template>,
    pub(super) email: Vec<Template>,
    pub(super) ssn: Vec<Template>,
}

/// All texts.
pub(super) struct Templates {
    pub(super) activities: Vec<Activity>,
    pub(super) mails_in: Vec<Mail>,
    pub(super) mails_out: Vec<Mail>,
    pub(super) asides: Asides,
}

static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| Templates {
    activities: ACTIVITIES
        .iter()
        .map(|(name, minutes, openings, endings)| Activity {
            name,
            minutes: *minutes,
            openings: parse_all(openings),
            endings: parse_all(endings),
        })
        .collect(),
    mails_in: MAILS_IN.iter().map(parse_mail).collect(),
    mails_out: MAILS_OUT.iter().map(parse_mail).collect(),
    asides: Asides {
        phone: parse_all(ASIDES_PHONE),
        email: parse_all(ASIDES_EMAIL),
        ssn: parse_all(ASIDES_SSN),
    },
});

pub(super) fn templates() -> &'static Templates {
    &TEMPLATES
}

fn parse_all(texts: &[&'static str]) -> Vec<Template> {
    texts.iter().map(|text| parse(text)).collect()
}

fn parse_mail((subject, body): &(&'static str, &'static str)) -> Mail {
    Mail {
        subject: parse(subject),
        body: parse(body),
    }
}

fn parse(text: &'static str) -> Template {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').expect("every slot is closed");
        parts.push((literal, slot(name)));
        rest = after;
    }
    parts.push((rest, Slot::None));
    Template { parts }
}

fn slot(name: &str) -> Slot {
    match name {
        "first" => Slot::First,
        "last" => Slot::Last,
        "skill" => Slot::Skill,
        "title" => Slot::Title,
        "work" => Slot::Work,
        "phone" => Slot::Phone,
        "email" => Slot::Email,
        "ssn" => Slot::Ssn,
        "rate" => Slot::Rate,
        "day" => Slot::Day,
        "count" => Slot::Count,
        other => unreachable!("`{other}` is not the name of a slot"),
    }
}

type ActivityText = (
    &'static str,
    u64,
    &'static [&'static str],
    &'static [&'static str],
);

/// Name, longest in minutes, openings, endings.
#[rustfmt::skip]
const ACTIVITIES: &[ActivityText] = &[
    ("call", 45, &[
        "Spoke with {first} about the next steps. Strong in {skill}, less so in {skill}.",
        "Called {first}, left a message about a {title} role.",
        "{first} is happy where they are but would listen to something with {skill}.",
        "Long talk with {first} {last}: wants to {work}.",
        "Quick check-in. {first} finished a course in {skill} last month.",
        "{first} asks for {rate} an hour and could start in {count} weeks.",
    ], &[
        " Call again on {day}.",
        " Will send the description tonight.",
        " No further action.",
        " Availability updated.",
        " Prefers to be called before nine.",
        " Said \"not before the holidays\" and meant it.",
    ]),
    ("interview", 90, &[
        "Interview for the {title} role. Good answers on {skill}; examples were from real work.",
        "{first} met the client for {count} hours and showed a sample of {skill}.",
        "Second round with {first} {last}. The panel liked how they {work}.",
        "Technical interview: {skill} solid, {skill} needs a refresher.",
        "{first} arrived early and asked better questions than we did.",
    ], &[
        " The client decides by {day}.",
        " An offer at {rate} is likely.",
        " They will not go ahead.",
        " Feedback passed on the same day.",
        " A trial shift is planned for {day}.",
    ]),
    ("submission", 0, &[
        "Sent the profile of {first} {last} to the client, rate {rate}.",
        "Shortlisted {first} with {count} others for their {skill}.",
        "Profile submitted; we stressed the experience with {skill} and {skill}.",
    ], &[
        " Reply expected by {day}.",
        " The client has seen it.",
        " Waiting for a date.",
    ]),
    ("meeting", 75, &[
        "Met {first} at the office, went through the contract and the rate of {rate}.",
        "Coffee with {first}: wants a change after {count} years.",
        "Onboarding talk with {first} {last}. Will {work}.",
    ], &[
        " Papers are complete.",
        " One certificate for {skill} is still missing.",
        " Next meeting on {day}.",
    ]),
    ("reference", 30, &[
        "Reference from the last employer: reliable, knows {skill} well.",
        "Former manager of {first} would hire again, praised the {skill}.",
        "Reference could not be reached after {count} tries.",
    ], &[
        " Nothing negative.",
        " Noted in the file.",
        " Try again on {day}.",
    ]),
    ("note", 0, &[
        "{first} moved and needs a shorter way to work.",
        "Asked for a profile with {skill}; this one fits.",
        "Salary expectation changed to {rate}.",
        "On leave for {count} weeks.",
    ], &[
        " Checked.",
        " Tell the night desk.",
        " Keep in the pool for {skill}.",
    ]),
];

#[rustfmt::skip]
const ASIDES_PHONE: &[&str] = &[
    " Best reached at {phone}.",
    " New number: {phone}, after five.",
    " Texted {phone} as well.",
];

#[rustfmt::skip]
const ASIDES_EMAIL: &[&str] = &[
    " Copies go to {email}.",
    " Please write to {email} instead.",
];

#[rustfmt::skip]
const ASIDES_SSN: &[&str] = &[
    " Gave the SSN over the phone: {ssn}.",
    " Background check ordered, SSN {ssn}.",
];

#[rustfmt::skip]
const MAILS_IN: &[(&str, &str)] = &[
    ("Question about the {title} position",
     "Hello, I read about the {title} position and would like to know more. In my last job I had to {work}, and I have used {skill} for {count} years. Is the rate of {rate} fixed? Kind regards, {first} {last}."),
    ("Timesheet of last week",
     "Hi, I forgot to enter the overtime on {day}. It was {count} hours, the supervisor signed for it. Could you correct it before payroll runs? Thank you, {first} {last}."),
    ("Re: Interview",
     "Thanks for the invitation. {day} suits me, before noon if possible. I will bring samples of my work with {skill} and {skill}. Best, {first}."),
    ("Change of address",
     "Dear team, I have moved and my way to work is now much longer. Is there anything closer to home? I would still like to {work}. {first} {last}."),
    ("Certificate for {skill}",
     "Please find attached my certificate for {skill}. The course took {count} weeks and ended on {day}. Please add it to my profile. {first} {last}."),
    ("I have to cancel",
     "I am sorry, I have to cancel on {day}: I have accepted another offer at {rate} an hour. Please keep me in your files. {first} {last}."),
];

#[rustfmt::skip]
const MAILS_OUT: &[(&str, &str)] = &[
    ("A {title} role that may suit you",
     "Dear {first}, a client of ours is looking for a {title} who can {work}. Your experience with {skill} would help. The rate is {rate} an hour. May I call you on {day}?"),
    ("Your interview on {day}",
     "Dear {first}, the client would like to meet you on {day}. Expect questions about {skill} and {skill}; the talk takes about an hour. Please confirm by return. Good luck!"),
    ("Your contract",
     "Dear {first} {last}, attached is your contract at {rate} an hour. Please check the dates and send it back signed by {day}. Call the desk with any question."),
    ("News on your application",
     "Dear {first}, the client has chosen somebody with more {skill}. They liked you nevertheless, and we have {count} other openings in which you could {work}. Shall we talk on {day}?"),
    ("Missing timesheet",
     "Dear {first}, the timesheet of last week is missing. Please enter your hours by {day} noon, or payroll will run without them. Your colleagues have already done so."),
];
