//! The one table of diagnostic codes. A code never changes its meaning; each has a page in `docs/errors/`. Codes
//! beginning with `W` are warnings, `D2xx` come from compiling a definition that was read, `D9xx` name constructs of
//! the standard that this version cannot run, `P1xx` say why a definition cannot be choreographed, `W3xx` what its
//! author should know of the way it runs.

macro_rules! codes {
    ($($name:ident $code:literal $title:literal)*) => {
        $(#[doc = $title] pub const $name: &str = $code;)*
        /// Every code with its title, in order.
        pub const ALL: &[(&str, &str)] = &[$(($code, $title)),*];
    };
}

codes! {
    SYNTAX "D001" "The text is not well-formed YAML or JSON"
    TOO_LARGE "D002" "The text is too large"
    MISSING "D010" "A required property is missing"
    UNKNOWN_KEY "D011" "Unknown property"
    WRONG_TYPE "D012" "A value has the wrong type"
    WRONG_VALUE "D013" "A value is not one of those allowed"
    PATTERN "D014" "A name or version has the wrong form"
    DSL_VERSION "D015" "Unsupported version of the DSL"
    DURATION "D016" "Malformed duration"
    ALTERNATIVES "D017" "Exactly one of several properties must be given"
    VARIABLE "D018" "A variable has a name it cannot have"
    NO_KIND "D020" "A task does nothing"
    TWO_KINDS "D021" "A task does two things"
    LIST_ITEM "D022" "A list item must have exactly one key"
    DUPLICATE_NAME "D023" "Two items of one list have the same name"
    RESERVED_NAME "D024" "A task has the name of a flow directive"
    THEN "D025" "`then` names no task of the same list"
    TWO_DEFAULTS "D026" "A switch has two default cases"
    UNKNOWN_RETRY "D030" "Unknown retry policy"
    UNKNOWN_ERROR "D031" "Unknown error"
    UNKNOWN_TIMEOUT "D032" "Unknown timeout"
    UNKNOWN_AUTHENTICATION "D033" "Unknown authentication policy"
    UNKNOWN_FUNCTION "D034" "Unknown function"
    UNKNOWN_SECRET "D035" "Unknown secret"
    RECURSION "D036" "A function calls itself"
    COMPENSATION "D037" "A compensation cannot be compensated itself"
    EXPRESSION "D040" "Malformed expression"
    LANGUAGE "D041" "Unknown expression language"
    AWAIT "D042" "`await` where it cannot stand"
    EMPTY_FILTER "D050" "An event filter without a property"
    UNTIL "D051" "`until` where it cannot stand"
    COMPILE "D201" "An expression does not compile"
    SCHEMA "D202" "A schema is no JSON Schema"
    SCHEMA_MISSING "D203" "A schema is not at hand"
    AWAIT_HOST "D204" "Whose callback is awaited is decided at run time"
    LATER_GRPC "D901" "`call: grpc` is not available"
    LATER_ASYNCAPI "D902" "`call: asyncapi` is not available"
    LATER_A2A "D903" "`call: a2a` is not available"
    LATER_MCP "D904" "`call: mcp` is not available"
    LATER_PROCESS "D905" "`run` of a container, script or shell is not available"
    LATER_EXTENSIONS "D906" "Extensions are not available"
    LATER_CATALOG "D907" "Catalogs and functions by URI are not available"
    LATER_AUTHENTICATION "D908" "An authentication scheme is not available"
    LATER_SCHEDULE "D909" "`schedule` is not available"
    LATER_SETTING "D910" "A setting of `metadata.pavane` is not available"
    LATER_LOOSE "D911" "Loose evaluation is not available"
    DYNAMIC_HOST "P101" "The host of an endpoint is decided at run time"
    NO_PARTICIPANT "P102" "A task belongs to no service with a participant"
    SPINS "P113" "A circle of tasks without an effect and without an end"
    LITERAL_EXPRESSION "W001" "A literal text that looks like an expression"
    SHARED_CONTEXT "W301" "Branches write the same key of the context"
    RACE_EFFECT "W302" "The loser of a race may have an effect that stays"
    NOT_UNDONE "W303" "A rollback does not undo a task"
    NO_DEADLINE "W305" "A wait without a deadline"
    NEEDS_OUTPUT "W306" "A compensation that needs the output"
    UNREACHABLE "W307" "No work ever comes to a task"
}
