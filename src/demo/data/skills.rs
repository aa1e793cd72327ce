//! The skill names that ship with the binary, and the professions that use them.
//! `world` picks from here, so that a nurse has a nurse's skills and a nurse's jobs.

use std::sync::LazyLock;

/// One name a line, sorted; the NOTICE beside it says where they come from.
static PACKED: &[u8] = include_bytes!("skills.txt.zst");

static NAMES: LazyLock<String> = LazyLock::new(|| {
    let text = zstd::decode_all(PACKED).expect("the packed skill names are part of the binary");
    String::from_utf8(text).expect("the packed skill names are ASCII")
});

/// The skills of each profession, in the order of [`PROFESSIONS`].
static BY_PROFESSION: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    PROFESSIONS
        .iter()
        .map(|p| skills().filter(|s| p.uses(s)).collect())
        .collect()
});

/// All skill names, sorted.
pub fn skills() -> impl Iterator<Item = &'static str> {
    NAMES.lines()
}

/// The skills of one profession; never empty.
pub(super) fn skills_of(profession: usize) -> &'static [&'static str] {
    &BY_PROFESSION[profession]
}

/// A line of work: what people in it are called, know, do and earn.
pub(super) struct Profession {
    pub(super) title: &'static str,
    pub(super) category: &'static str,
    /// Words of skill names; one that ends in `*` stands for every word that starts so.
    words: &'static [&'static str],
    /// Pay by the hour in dollars, from a beginner's to an expert's.
    pub(super) pay: (u64, u64),
    /// What somebody in it does, as the end of "you will …".
    pub(super) work: &'static [&'static str],
}

impl Profession {
    fn uses(&self, skill: &str) -> bool {
        let mut words = skill.split([' ', '/', '-', '&']);
        words.any(|word| {
            self.words
                .iter()
                .any(|known| match known.strip_suffix('*') {
                    Some(start) => word.starts_with(start),
                    None => word == *known,
                })
        })
    }
}

const fn profession(
    title: &'static str,
    category: &'static str,
    pay: (u64, u64),
    words: &'static [&'static str],
    work: &'static [&'static str],
) -> Profession {
    Profession {
        title,
        category,
        words,
        pay,
        work,
    }
}

/// The lines of work that the agency places people in.
#[rustfmt::skip]
pub(super) const PROFESSIONS: &[Profession] = &[
    profession("Data Engineer", "Technology", (38, 96), &["sql", "etl", "elt", "spark", "hadoop", "airflow", "kafka", "snowflake", "databricks", "warehouse", "warehousing"],
        &["move data from a dozen sources into one warehouse every night", "keep pipelines fast and their results trustworthy"]),
    profession("Software Developer", "Technology", (36, 98), &["java", "python", "rust", "react", "kubernetes", "docker", "api", "apis", "microservice*", "golang", "typescript", "javascript", "backend", "frontend"],
        &["write and review services that customers use every day", "take a feature from sketch to production and look after it there"]),
    profession("Machine Learning Engineer", "Technology", (46, 115), &["ml", "neural", "pytorch", "tensorflow", "nlp", "llm", "llms", "classification", "regression", "embedding*"],
        &["train models on our data and put them in front of users", "measure whether a prediction is any good and say so plainly"]),
    profession("Security Analyst", "Technology", (38, 92), &["siem", "penetration", "threat", "threats", "vulnerabilit*", "firewall*", "malware", "cybersecurity", "forensic*"],
        &["watch for break-ins and answer them before harm is done", "test our own defences and close what you find"]),
    profession("Network Administrator", "Technology", (28, 68), &["cisco", "routing", "switches", "vpn", "dns", "tcp", "wan", "lan", "wireless", "dhcp", "bgp", "vlan*"],
        &["keep offices and data centres connected", "replace old switches without anybody noticing"]),
    profession("UX Designer", "Design", (30, 84), &["figma", "ux", "ui", "photoshop", "illustrator", "typograph*", "wirefram*", "prototyping", "sketch"],
        &["turn interviews with users into screens that they understand", "draw, test and throw away until it is simple"]),
    profession("Registered Nurse", "Healthcare", (32, 62), &["patient", "patients", "nurs*", "triage", "clinic", "clinical", "medication", "medical", "healthcare", "hospital*"],
        &["look after people on a hospital ward and give them their medicine", "watch vital signs through the night and call the doctor in time"]),
    profession("Laboratory Technician", "Life Sciences", (20, 44), &["laborator*", "assay*", "pcr", "hplc", "chromatograph*", "microbiolog*", "molecular", "chemistry", "chemical", "lab", "spectroscop*"],
        &["prepare samples, run them and write down what you see", "keep instruments clean and calibrated"]),
    profession("Clinical Research Coordinator", "Life Sciences", (26, 58), &["gmp", "gcp", "fda", "pharma*", "drug", "drugs", "trials", "biotech*"],
        &["enrol volunteers in drug trials and keep their files complete", "prepare sites for inspection"]),
    profession("Staff Accountant", "Finance", (24, 56), &["accounting", "ledger*", "tax", "taxes", "audit", "auditing", "reconcil*", "payroll", "gaap", "ifrs", "invoic*", "bookkeeping"],
        &["close the books at the end of every month", "find out why two sums that should agree do not"]),
    profession("Financial Analyst", "Finance", (30, 78), &["financial", "investment*", "portfolio*", "valuation*", "equity", "treasury", "derivatives", "forecasting", "hedge"],
        &["build the model behind next year's budget", "explain to managers where the money went"]),
    profession("Electrician", "Construction", (24, 52), &["electrical", "plc", "scada", "wiring", "circuit*", "motors", "substation*", "switchgear", "transformer*", "cabling"],
        &["pull cable, wire panels and test what you have built", "find the fault that stops a production line"]),
    profession("Construction Superintendent", "Construction", (34, 72), &["construction", "concrete", "civil", "surveying", "autocad", "bim", "revit", "hvac", "plumbing", "scaffold*"],
        &["run a building site so that it is safe, dry and on time", "bring carpenters, plumbers and inspectors together"]),
    profession("Solar Technician", "Energy", (22, 48), &["solar", "photovoltaic*", "inverter*", "turbine*", "renewable*", "pv", "battery", "batteries"],
        &["put panels on roofs and connect them to the grid", "climb, measure and repair in all weathers"]),
    profession("Automotive Mechanic", "Automotive", (20, 46), &["automotive", "vehicle", "vehicles", "diesel", "engines", "brake", "brakes", "repair", "repairs", "overhaul*"],
        &["repair cars and vans and road-test them", "find out why an engine stalls when it is cold"]),
    profession("Mechanical Designer", "Manufacturing", (30, 72), &["solidworks", "cad", "mechanical", "ansys", "machining", "cnc", "welding", "catia", "creo", "gd&t"],
        &["draw parts that can be made and assemblies that can be serviced", "sit with the machinists and make the next version better"]),
    profession("Quality Technician", "Manufacturing", (20, 44), &["manufacturing", "lean", "sigma", "kaizen", "5s", "spc", "inspection*", "metrology", "calibration", "fmea"],
        &["measure parts, keep the charts and stop the line when they drift", "trace a complaint back to the machine that caused it"]),
    profession("Warehouse Coordinator", "Logistics", (18, 38), &["logistic*", "warehouse", "warehousing", "inventory", "freight", "shipping", "forklift*", "fleet", "shipments", "dispatch*"],
        &["get pallets in, counted and out again", "plan trucks so that none drives half empty"]),
    profession("Project Manager", "Management", (36, 90), &["project", "projects", "agile", "scrum", "stakeholder*", "kanban", "budgeting", "jira", "pmp"],
        &["keep a team, a plan and a budget together", "say early when a date will not hold"]),
    profession("Recruiter", "Human Resources", (24, 58), &["recruit*", "onboarding", "talent", "hris", "employee", "employees", "compensation", "hiring", "hr", "sourcing"],
        &["find people for jobs that are hard to fill", "walk new colleagues through their first weeks"]),
    profession("Paralegal", "Legal", (22, 50), &["legal", "litigation", "contracts", "law", "laws", "paralegal", "gdpr", "patent*", "trademark*"],
        &["prepare filings and keep deadlines", "read contracts and mark what is unusual"]),
    profession("Marketing Specialist", "Marketing", (22, 58), &["marketing", "seo", "campaign*", "brand", "branding", "advertising", "ads", "content", "copywriting"],
        &["plan campaigns and show what they brought in", "write so that people read to the end"]),
    profession("Sales Representative", "Sales", (20, 64), &["sales", "crm", "prospecting", "negotiat*", "salesforce", "upselling", "hubspot", "leads"],
        &["call on shops and win new accounts", "turn a first meeting into a signed order"]),
    profession("Customer Support Agent", "Customer Service", (17, 34), &["customer", "customers", "ticket*", "helpdesk", "zendesk", "call", "complaint*", "escalation*"],
        &["answer calls and calm people down", "solve today's problem and note what would prevent it"]),
    profession("Office Administrator", "Administration", (18, 38), &["office", "calendar*", "typing", "filing", "excel", "minutes", "reception*", "administrative", "correspondence", "spreadsheet*"],
        &["run the front desk, the calendar and the post", "keep an office of forty in good order"]),
    profession("Instructional Designer", "Education", (26, 60), &["teaching", "curricul*", "classroom*", "training", "learning", "pedagog*", "tutor*", "instructional", "lesson*", "education*"],
        &["turn experts' knowledge into lessons that stick", "teach adults who would rather be elsewhere"]),
    profession("Food Service Supervisor", "Hospitality", (18, 36), &["food", "foods", "kitchen*", "hotel*", "hospitality", "guest*", "catering", "restaurant*", "beverage*", "culinary", "cook*"],
        &["run a kitchen that serves three hundred lunches", "order, store and cook so that nothing is wasted"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profession_has_a_choice_of_skills() {
        for (n, profession) in PROFESSIONS.iter().enumerate() {
            let count = skills_of(n).len();
            assert!(count >= 12, "{} has {count} skills", profession.title);
        }
    }

    #[test]
    fn skill_names_read_well_in_a_list() {
        assert_eq!(skills().count(), 28_283);
        for skill in skills() {
            assert!(
                skill.is_ascii() && skill.len() <= 32 && !skill.contains([',', '"']),
                "{skill}"
            );
        }
    }
}
