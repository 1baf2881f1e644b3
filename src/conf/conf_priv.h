/* What the files of src/conf share: the row of the table of options, and the load in progress.
 *
 * Keys are dotted paths. Below a list the path has "[]": "listen[].address" is relative to one struct conf_listen,
 * all other keys to struct conf. The part before the last dot is a row's parent. */
#ifndef ADIT_SRC_CONF_PRIV_H
#define ADIT_SRC_CONF_PRIV_H

#include "adit/conf/conf.h"

enum {
	CONF_FILE_MAX_BYTES = 1024 * 1024,
	CONF_DEPTH_MAX = 16, /* of collections in the file; the table needs 5 */
	CONF_ERRORS_MAX = 50,
	CONF_ROWS_MAX = 112,
	CONF_LABEL_SIZE = 128,
	CONF_WHY_SIZE = 512,
	CONF_TEXT_SIZE = 64, /* a scalar's value as text, strings aside */
};

enum conf_type {
	CONF_SECTION, /* a map of further rows */
	CONF_SWITCH, /* a map of further rows, or `off`: a bool */
	CONF_BOOL,
	CONF_CHOICE, /* one word of `choices`; stored: its place, plus `least` */
	CONF_COUNT,
	CONF_DURATION, /* unsigned, ms */
	CONF_SIZE, /* size_t, bytes */
	CONF_RATE, /* struct conf_rate */
	CONF_STRING, /* char *, NULL: not given */
	CONF_ADDRESS, /* struct addr with its port */
	CONF_HOST, /* struct addr without port; `least` is its family */
	CONF_LIST, /* pointer at `offset`, size_t count at `count` */
};

enum {
	CONF_MAY_OFF = 1, /* `off` is allowed: CONF_OFF for durations, NULL for strings, else 0 */
	CONF_MAY_AUTO = 2, /* `auto` is allowed: 0 */
	CONF_REQUIRED = 4, /* in an item of a list */
	CONF_FILLED = 8, /* a list: when it is given, an empty one is an error */
	CONF_RESTART = 16, /* a reload does not change it */
	CONF_OFF_ZERO = 32, /* with CONF_MAY_OFF: a duration whose `off` is 0 */
};

/* Which strings a CONF_STRING row takes. */
enum conf_string {
	CONF_STRING_PATH, CONF_STRING_REALM, CONF_STRING_NODE, CONF_STRING_ACCOUNT, CONF_STRING_RULE,
	CONF_STRING_AUTHORITY, /* host:port, kept in its canonical form */
};

/* What a list holds. Without `parse` its items are maps of the rows below "KEY[]". */
struct conf_items {
	size_t size;
	size_t where; /* offset of a struct conf_where, for maps */
	bool bare; /* maps: a plain value stands for the item's first row */
	bool (*parse)(void *item, struct slice text, char why[static CONF_WHY_SIZE]);
	void (*print)(const void *item, FILE *to);
	void (*fini)(void *item);
	const char *what; /* "an address", for messages and the manual */
};

struct conf_row {
	const char *key;
	enum conf_type type;
	size_t offset, size; /* of the member */
	size_t count; /* lists: offset of the member that counts */
	const struct conf_items *items;
	enum conf_string string;
	unsigned flags;
	const char *standard; /* the default as it would stand in a file (lists: YAML); NULL: none */
	unsigned long long least, most; /* range in base units; lists: at most `most` items */
	const char *choices; /* "deny|allow" */
	const char *option, *argument, *brief; /* of the command line */
	const char *doc; /* sentences for the manual */
};

/* --- conf_table.c --- */
const struct conf_row *conf_table_row(size_t i); /* in order of documentation; NULL past the end */
size_t conf_table_index(const struct conf_row *row);
const struct conf_row *conf_table_find(struct slice parent, struct slice name);
const struct conf_row *conf_table_key(struct slice key); /* by its whole path */
const struct conf_row *conf_table_first(const char *list_key); /* the first row of a list's items */
struct slice conf_table_parent(const struct conf_row *row);
const char *conf_table_name(const struct conf_row *row); /* the last component */
/* What may have been meant: a sibling's name, else the whole path of a row with exactly that name; NULL: no idea. */
const char *conf_table_near(struct slice parent, struct slice name);
unsigned conf_table_distance(struct slice a, struct slice b, unsigned most); /* edits; more than most: most + 1 */

/* --- conf_types.c: one scalar, text <-> member --- */
bool conf_types_parse(const struct conf_row *row, void *base, struct slice text, char why[static CONF_WHY_SIZE]);
/* The value as it would stand in a file; strings themselves when they are set, else NULL. */
const char *conf_types_text(const struct conf_row *row, const void *base, char buf[static CONF_TEXT_SIZE]);
bool conf_types_equal(const struct conf_row *row, const void *a, const void *b);
/* What is allowed, as words: "from 1s to 1d, or off". */
const char *conf_types_allowed(const struct conf_row *row, char *buf, size_t size);
bool conf_types_printable(struct slice text);
const char *conf_types_show(struct slice value, char *buf, size_t size); /* any text, quoted and cut, for messages */

/* --- conf_rules.c: the items of lists --- */
extern const struct conf_items conf_rules_listen, conf_rules_certificates, conf_rules_rules, conf_rules_users,
	conf_rules_to, conf_rules_ports, conf_rules_servers;

/* --- conf_list.c: lists and whole structs by their rows --- */
/* A new item at the end, its rows at their defaults; NULL when out of memory. */
void *conf_list_add(const struct conf_row *list, void *base) ADIT_MUST_USE;
void conf_list_drop_last(const struct conf_row *list, void *base);
void conf_list_clear(const struct conf_row *list, void *base);
size_t conf_list_count(const struct conf_row *list, const void *base);
void *conf_list_at(const struct conf_row *list, const void *base, size_t i);
bool conf_list_defaults(struct slice parent, void *base) ADIT_MUST_USE; /* scalars alone; false: out of memory */
void conf_list_fini(struct slice parent, void *base); /* every row below parent; "" is the whole configuration */

/* --- conf_yaml.c --- */
struct conf_load {
	struct conf *conf;
	struct conf_errors *errors;
	const char *name; /* of the text, for messages */
	bool given[CONF_ROWS_MAX]; /* rows of the configuration itself that the text has set */
};
/* Walks a whole text into load->conf. False when anything was wrong. */
bool conf_yaml_text(struct conf_load *load, struct slice text);
/* Walks a text that is the value of one row. */
bool conf_yaml_value(struct conf_load *load, const struct conf_row *row, struct slice text);

/* --- conf_options.c --- */
void conf_options_apply(struct conf_load *load, const struct conf_option *options, size_t count);

/* --- conf.c --- */
/* conf_load without the file: `name` stands in messages. text.p NULL: options alone. For tests and fuzzing, too. */
struct conf *conf_parse_text(const char *name, struct slice text, const struct conf_option *options,
	size_t option_count, struct conf_errors *errors) ADIT_MUST_USE;

/* --- conf_print.c --- */
void conf_print_string(const char *text, FILE *to); /* quoted when YAML would not give it back */

static inline bool conf_failed(const struct conf_errors *e)
{
	return e->count > 0 || e->left_out > 0;
}

#endif
