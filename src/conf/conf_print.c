/* The table's rows in three voices: the effective configuration as YAML, the manual page adit.yaml(5) as roff, and
 * the options of the command line. What is printed loads back to the same snapshot, so strings are quoted when in
 * doubt. */
#include "conf/conf_priv.h"

#include <stdio.h>

enum { INDENT = 2, HELP_COLUMN = 24 };

/* Words that stand for something else in YAML when they are not quoted. */
static bool is_word(const char *text)
{
	static const char *const taken[] = { "null", "true", "false", "on", "off", "yes", "no", "y", "n" };

	if (!((text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z') || text[0] == '/'))
		return false;
	for (const char *p = text; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("/._-", *p)))
			return false;
	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		if (slice_ieq(slice_of(text), slice_of(taken[i])))
			return false;
	return true;
}

void conf_print_string(const char *text, FILE *to)
{
	if (is_word(text)) {
		fputs(text, to);
		return;
	}
	fputc('"', to);
	for (const char *p = text; *p; p++) {
		if (*p == '"' || *p == '\\')
			fputc('\\', to);
		fputc(*p, to);
	}
	fputc('"', to);
}

static void print_scalar(const struct conf_row *row, const char *text, FILE *to)
{
	if (row->type == CONF_STRING && (row->flags & CONF_MAY_OFF) && strcmp(text, "off") == 0)
		fputs(text, to);
	else if (row->type == CONF_STRING || row->type == CONF_ADDRESS || row->type == CONF_HOST)
		conf_print_string(text, to);
	else
		fputs(text, to);
}

static void print_list(const struct conf_row *list, const void *base, FILE *to)
{
	size_t n = conf_list_count(list, base);

	fputc('[', to);
	for (size_t i = 0; i < n; i++) {
		fputs(i ? ", " : "", to);
		list->items->print(conf_list_at(list, base, i), to);
	}
	fputc(']', to);
}

/* One item that is a map, on one line. */
static void print_item(const struct conf_row *list, const void *item, FILE *to)
{
	const struct conf_row *row;
	char parent[CONF_LABEL_SIZE], buf[CONF_TEXT_SIZE];
	const char *text, *comma = "";

	snprintf(parent, sizeof(parent), "%s[]", list->key);
	fputs("- { ", to);
	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		if (!slice_eq(conf_table_parent(row), slice_of(parent)))
			continue;
		if (row->type == CONF_LIST) {
			if (conf_list_count(row, item) == 0)
				continue;
			fprintf(to, "%s%s: ", comma, conf_table_name(row));
			print_list(row, item, to);
		} else {
			if (!(text = conf_types_text(row, item, buf)))
				continue;
			fprintf(to, "%s%s: ", comma, conf_table_name(row));
			print_scalar(row, text, to);
		}
		comma = ", ";
	}
	fputs(" }\n", to);
}

static void print_row(const struct conf_row *row, const struct conf *conf, int indent, FILE *to)
{
	char buf[CONF_TEXT_SIZE];
	const char *text;
	size_t n;

	if (row->type != CONF_LIST) {
		if (!(text = conf_types_text(row, conf, buf)))
			return;
		fprintf(to, "%*s%s: ", indent, "", conf_table_name(row));
		print_scalar(row, text, to);
		fputc('\n', to);
		return;
	}
	n = conf_list_count(row, conf);
	fprintf(to, "%*s%s:%s", indent, "", conf_table_name(row), row->items->parse ? " " : n ? "\n" : " []\n");
	if (row->items->parse) {
		print_list(row, conf, to);
		fputc('\n', to);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		fprintf(to, "%*s", indent + INDENT, "");
		print_item(row, conf_list_at(row, conf, i), to);
	}
}

/* A section of which nothing is set is left out. */
static bool has_values(const struct conf_row *section, const struct conf *conf)
{
	const struct conf_row *row;
	char buf[CONF_TEXT_SIZE];

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (slice_eq(conf_table_parent(row), slice_of(section->key)) &&
			(row->type == CONF_LIST || conf_types_text(row, conf, buf)))
			return true;
	return false;
}

/* NOLINTBEGIN(misc-no-recursion): no deeper than the keys of the table */
static void print_below(struct slice parent, const struct conf *conf, int indent, FILE *to)
{
	const struct conf_row *row;
	char buf[CONF_TEXT_SIZE];

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		if (!slice_eq(conf_table_parent(row), parent) || strstr(row->key, "[]"))
			continue;
		if (row->type == CONF_SECTION && !has_values(row, conf))
			continue;
		if (row->type == CONF_SECTION ||
			(row->type == CONF_SWITCH && strcmp(conf_types_text(row, conf, buf), "on") == 0)) {
			fprintf(to, "%*s%s:\n", indent, "", conf_table_name(row));
			print_below(slice_of(row->key), conf, indent + INDENT, to);
		} else {
			print_row(row, conf, indent, to);
		}
	}
}
/* NOLINTEND(misc-no-recursion) */

void conf_print(const struct conf *conf, FILE *to)
{
	print_below(slice_of(""), conf, 0, to);
}

/* --- the manual --- */

static void print_roff(const char *text, FILE *to)
{
	for (bool start = true; *text; text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", to);
		if (*text == '\\')
			fputs("\\e", to);
		else if (*text == '-')
			fputs("\\-", to);
		else
			fputc(*text, to);
		start = *text == '\n';
	}
}

static const char reference_head[] =
	".TH ADIT.YAML 5 \"\" adit \"adit manual\"\n"
	".SH NAME\nadit.yaml \\- configuration of the adit proxy\n"
	".SH SYNOPSIS\n.B adit serve \\-c\n.I FILE\n.br\n.B adit check \\-c\n.I FILE\n"
	".SH DESCRIPTION\n"
	"The configuration is one YAML document: a map of the keys below, of which each can be left out.\n"
	"Keys with a dot are nested: \\fBauth.realm\\fR is the key \\fBrealm\\fR in the map \\fBauth\\fR.\n"
	"\\fB[]\\fR stands for each entry of a list. Aliases and tags are not used. The file has at most 1 MiB.\n"
	"Options of the command line come before the file, and \\fB\\-\\-set\\fR \\fIKEY\\fR=\\fIVALUE\\fR sets every\n"
	"key that takes a plain value.\n"
	".PP\n"
	"\\fBadit check\\fR tells everything that is wrong with a file, as \\fIfile\\fR:\\fIline\\fR:\\fIcolumn\\fR, and\n"
	"prints the effective configuration when nothing is. A running proxy reads the file again on SIGHUP; a file\n"
	"with faults changes nothing. Keys of which is said that they need a restart keep their values until then.\n"
	".PP\n"
	"Durations are a number with \\fBms\\fR, \\fBs\\fR, \\fBm\\fR, \\fBh\\fR or \\fBd\\fR: 250ms, 30s, 1h.\n"
	"Sizes are a number of bytes, or one with \\fBKiB\\fR, \\fBMiB\\fR, \\fBGiB\\fR (powers of 1024) or \\fBkB\\fR,\n"
	"\\fBMB\\fR, \\fBGB\\fR (powers of 1000). Rates are a number per time: 500/s, 100/min, 20/h.\n"
	"Switches are \\fBon\\fR or \\fBoff\\fR.\n"
	".SH KEYS\n";

static const char reference_tail[] =
	".SH EXAMPLE\n.nf\n"
	"tls:\n  certificates:\n    \\- { chain: /etc/adit/proxy.crt, key: /etc/adit/proxy.key }\n"
	"auth:\n  htpasswd: /etc/adit/users.htpasswd\n"
	"policy:\n  rules:\n"
	"    \\- { name: lab,  action: allow, to: [loopback, 10.20.0.0/16, \"*.lab.example\"], ports: [any] }\n"
	"    \\- { name: mail, action: deny,  to: [any], ports: [25, 465, 587] }\n"
	"    \\- { name: web,  action: allow, to: [any] }\n"
	".fi\n"
	".SH SEE ALSO\n.BR adit (8)\n";

void conf_print_reference(FILE *to)
{
	const struct conf_row *row;
	char allowed[CONF_WHY_SIZE];

	fputs(reference_head, to);
	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		if (row->type == CONF_SECTION)
			fprintf(to, ".SS %s\n", row->key);
		else if (i > 0 && !strchr(row->key, '.') && strchr(conf_table_row(i - 1)->key, '.'))
			fputs(".SS others\n", to);
		if (row->type != CONF_SECTION) {
			fputs(".TP\n.B ", to);
			print_roff(row->key, to);
			fputc('\n', to);
		}
		print_roff(row->doc, to);
		fputc('\n', to);
		if (row->type == CONF_SECTION)
			continue;
		fputs(".br\nValue: ", to);
		print_roff(conf_types_allowed(row, allowed, sizeof(allowed)), to);
		if (row->standard) {
			fputs(". Default: ", to);
			print_roff(row->standard, to);
		}
		fprintf(to, ".%s%s", row->flags & CONF_REQUIRED ? " Required." : "",
			row->flags & CONF_RESTART ? " Needs a restart." : "");
		if (row->option) {
			fputs(" Option: \\fB", to);
			print_roff(row->option, to);
			fputs("\\fR.", to);
		}
		fputc('\n', to);
	}
	fputs(reference_tail, to);
}

/* --- the command line --- */

const char *conf_option_key(const char *option, const char **argument, const char **near)
{
	const struct conf_row *row;
	unsigned best = 2;

	*near = *argument = NULL;
	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		unsigned d;

		if (!row->option)
			continue;
		if (strcmp(row->option, option) == 0) {
			*argument = row->argument;
			*near = NULL;
			return row->key;
		}
		d = conf_table_distance(slice_of(option), slice_of(row->option), best);
		if (d <= best && (!*near || d < best)) {
			*near = row->option;
			best = d;
		}
	}
	return NULL;
}

void conf_print_options(FILE *to)
{
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		int width;

		if (!row->option)
			continue;
		width = fprintf(to, "  %s %s", row->option, row->argument);
		fprintf(to, "%*s%s", width < HELP_COLUMN ? HELP_COLUMN - width : 1, "", row->brief);
		if (row->standard && row->type != CONF_LIST)
			fprintf(to, " [%s]", row->standard);
		fputc('\n', to);
	}
}
