/* The text of a configuration: libyaml makes a document of it, whose nodes know their line and column, and the
 * table's rows are walked along it. Every fault is reported and the walk goes on, so that one run tells all of
 * them.
 *
 * Before the document is made its events are looked through: what would make the walk deep, endless or ambiguous
 * (nesting, aliases, tags, a second document) never reaches it. */
#include "conf/conf_priv.h"

#include "adit/log/log.h"

#include <stdarg.h>
#include <yaml.h>

enum { NAME_SHOWN = 48 };

struct walk {
	struct conf_load *load;
	yaml_document_t doc;
	char label[CONF_LABEL_SIZE]; /* "listen[1].address" */
	size_t label_n;
};

static void report_at(struct walk *w, yaml_mark_t mark, const char *fmt, ...) ADIT_PRINTF(3, 4);

static void report_at(struct walk *w, yaml_mark_t mark, const char *fmt, ...)
{
	struct conf_errors *errors = w->load->errors;
	char text[CONF_WHY_SIZE];
	va_list args;

	if (errors->count >= CONF_ERRORS_MAX) {
		errors->left_out++;
		return;
	}
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	conf_errors_add(errors, "%s:%zu:%zu: %s%s%s", w->load->name, mark.line + 1, mark.column + 1, w->label,
		w->label_n ? ": " : "", text);
}

#define report(w, node, ...) report_at(w, (node)->start_mark, __VA_ARGS__)

static size_t label_push(struct walk *w, const char *fmt, ...) ADIT_PRINTF(2, 3);

static size_t label_push(struct walk *w, const char *fmt, ...)
{
	size_t old = w->label_n;
	va_list args;

	va_start(args, fmt);
	vsnprintf(w->label + old, sizeof(w->label) - old, fmt, args);
	va_end(args);
	w->label_n = strlen(w->label);
	return old;
}

static void label_pop(struct walk *w, size_t old)
{
	w->label_n = old;
	w->label[old] = '\0';
}

static struct slice text_of(const yaml_node_t *node)
{
	return (struct slice){ (const char *)node->data.scalar.value, node->data.scalar.length };
}

/* Nothing was written: "key:", "key: ~", "key: null". */
static bool is_nothing(const yaml_node_t *node)
{
	struct slice text;

	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	text = text_of(node);
	return text.n == 0 || slice_eq(text, slice_of("~")) || slice_eq(text, slice_of("null"));
}

static const char *kind_of(const yaml_node_t *node)
{
	return node->type == YAML_MAPPING_NODE ? "a map" : node->type == YAML_SEQUENCE_NODE ? "a list" : "a plain value";
}

static void walk_value(struct walk *w, const struct conf_row *row, yaml_node_t *node, void *base);

static void report_unknown(struct walk *w, struct slice parent, yaml_node_t *key)
{
	char name[NAME_SHOWN];
	const char *near;
	size_t old;

	if (w->load->errors->count >= CONF_ERRORS_MAX) {
		w->load->errors->left_out++;
		return;
	}
	near = conf_table_near(parent, text_of(key));
	log_safe(text_of(key), name, sizeof(name));
	old = label_push(w, "%s%s", w->label_n ? "." : "", name);
	if (near)
		report(w, key, "unknown key; did you mean %s?", near);
	else
		report(w, key, "unknown key; adit.yaml(5) lists all keys");
	label_pop(w, old);
}

/* NOLINTBEGIN(misc-no-recursion): no deeper than CONF_DEPTH_MAX, which was looked at before */
/* A map whose keys are the rows of parent. In an item of a list the required ones must be there. */
static void walk_map(struct walk *w, struct slice parent, yaml_node_t *node, void *base)
{
	size_t lines[CONF_ROWS_MAX] = { 0 };
	bool is_item = base != (void *)w->load->conf;
	const struct conf_row *row;

	for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
		yaml_node_t *key = yaml_document_get_node(&w->doc, pair->key);
		yaml_node_t *value = yaml_document_get_node(&w->doc, pair->value);
		size_t i, old;

		if (key->type != YAML_SCALAR_NODE) {
			report(w, key, "%s stands where a key should be", kind_of(key));
			continue;
		}
		row = conf_table_find(parent, text_of(key));
		if (!row) {
			report_unknown(w, parent, key);
			continue;
		}
		i = conf_table_index(row);
		old = label_push(w, "%s%s", w->label_n ? "." : "", conf_table_name(row));
		if (lines[i] > 0) {
			report(w, key, "is there twice; the first is in line %zu", lines[i]);
		} else {
			lines[i] = key->start_mark.line + 1;
			if (!is_item)
				w->load->given[i] = true;
			walk_value(w, row, value, base);
		}
		label_pop(w, old);
	}
	for (size_t i = 0; is_item && (row = conf_table_row(i)) != NULL; i++)
		if ((row->flags & CONF_REQUIRED) && lines[i] == 0 && slice_eq(conf_table_parent(row), parent))
			report(w, node, "%s is missing", conf_table_name(row));
}

static void walk_item(struct walk *w, const struct conf_row *list, yaml_node_t *node, void *base)
{
	const struct conf_items *items = list->items;
	char parent[CONF_LABEL_SIZE], why[CONF_WHY_SIZE];
	bool scalar = node->type == YAML_SCALAR_NODE;
	void *item;

	if (scalar ? !items->parse && !items->bare : items->parse || node->type != YAML_MAPPING_NODE) {
		report(w, node, "%s is here; the list holds %s", kind_of(node), items->what);
		return;
	}
	item = conf_list_add(list, base);
	if (!item) {
		report(w, node, "out of memory");
		return;
	}
	if (!items->parse)
		*(struct conf_where *)(void *)((char *)item + items->where) =
			(struct conf_where){ (unsigned)node->start_mark.line + 1, (unsigned)node->start_mark.column + 1 };
	snprintf(parent, sizeof(parent), "%s[]", list->key);
	if (!scalar) {
		walk_map(w, slice_of(parent), node, item);
	} else if (!(items->parse ? items->parse(item, text_of(node), why) :
				    conf_types_parse(conf_table_first(list->key), item, text_of(node), why))) {
		report(w, node, "%s", why);
		conf_list_drop_last(list, base);
	}
}

static void walk_list(struct walk *w, const struct conf_row *list, yaml_node_t *node, void *base)
{
	size_t number = 0, old;

	if (node->type == YAML_SCALAR_NODE && !is_nothing(node) && (list->items->parse || list->items->bare)) {
		walk_item(w, list, node, base);
		return;
	}
	if (is_nothing(node)) {
		report(w, node, "has no value; write a list of %s%s", list->items->what,
			list->flags & CONF_FILLED ? ", or leave the key out" : ", or [] for none");
		return;
	}
	if (node->type != YAML_SEQUENCE_NODE) {
		report(w, node, "%s is here; write a list of %s", kind_of(node), list->items->what);
		return;
	}
	for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
		yaml_node_t *item = yaml_document_get_node(&w->doc, *i);

		if (++number > list->most) {
			report(w, item, "has more than %llu items", list->most);
			return;
		}
		old = label_push(w, "[%zu]", number);
		walk_item(w, list, item, base);
		label_pop(w, old);
	}
	if (number == 0 && (list->flags & CONF_FILLED))
		report(w, node, "the list is empty; it needs at least one of its %s%s", list->items->what,
			list->flags & CONF_REQUIRED ? "" : ", or leave the key out");
}

static void walk_value(struct walk *w, const struct conf_row *row, yaml_node_t *node, void *base)
{
	char why[CONF_WHY_SIZE];

	if (row->type == CONF_LIST) {
		walk_list(w, row, node, base);
		return;
	}
	if (row->type == CONF_SECTION || row->type == CONF_SWITCH) {
		if (node->type == YAML_MAPPING_NODE) {
			if (row->type == CONF_SWITCH)
				(void)conf_types_parse(row, base, slice_of("on"), why);
			walk_map(w, slice_of(row->key), node, base);
			return;
		}
		if (row->type == CONF_SECTION) {
			if (!is_nothing(node)) /* a section whose keys are all commented out is no fault */
				report(w, node, "%s is here; write a map of its keys", kind_of(node));
			return;
		}
	}
	if (node->type != YAML_SCALAR_NODE) {
		conf_types_allowed(row, why, sizeof(why));
		report(w, node, "%s is here; write %s", kind_of(node), why);
		return;
	}
	if (!conf_types_parse(row, base, is_nothing(node) ? slice_of("") : text_of(node), why))
		report(w, node, "%s", why);
}
/* NOLINTEND(misc-no-recursion) */

/* libyaml's own complaint, with the best position it has. */
static void report_parser(struct walk *w, const yaml_parser_t *parser, struct slice text)
{
	yaml_mark_t mark = parser->problem_mark;

	if (parser->error == YAML_MEMORY_ERROR) {
		report_at(w, (yaml_mark_t){ 0, 0, 0 }, "out of memory");
		return;
	}
	if (parser->error != YAML_READER_ERROR) {
		report_at(w, mark, "not YAML: %s%s%s", parser->context ? parser->context : "", parser->context ? ": " : "",
			parser->problem ? parser->problem : "unknown problem");
		return;
	}
	memset(&mark, 0, sizeof(mark)); /* the reader knows the byte alone */
	for (size_t i = 0; i < parser->problem_offset && i < text.n; i++) {
		bool newline = text.p[i] == '\n';

		mark.line += newline;
		mark.column = newline ? 0 : mark.column + (((unsigned char)text.p[i] & 0xc0) != 0x80);
	}
	report_at(w, mark, "not text in UTF-8: %s", parser->problem ? parser->problem : "unknown problem");
}

static bool parser_start(yaml_parser_t *parser, struct slice text)
{
	if (!yaml_parser_initialize(parser))
		return false;
	yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(parser, (const unsigned char *)text.p, text.n);
	return true;
}

/* One event of the look before the walk. False: do not go on. */
static bool look_at(struct walk *w, const yaml_event_t *event, unsigned *depth, unsigned *documents)
{
	const unsigned char *tag = NULL;

	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (++*documents > 1) {
			report_at(w, event->start_mark, "a second document begins here; one is allowed");
			return false;
		}
		break;
	case YAML_ALIAS_EVENT:
		report_at(w, event->start_mark, "an alias is here (*name); write out what it stands for");
		break;
	case YAML_SCALAR_EVENT:
		tag = event->data.scalar.tag;
		break;
	case YAML_SEQUENCE_START_EVENT: case YAML_MAPPING_START_EVENT:
		tag = event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.tag : event->data.mapping_start.tag;
		if (++*depth > CONF_DEPTH_MAX) {
			report_at(w, event->start_mark, "lists and maps are nested deeper than %d here", CONF_DEPTH_MAX);
			return false;
		}
		break;
	case YAML_SEQUENCE_END_EVENT: case YAML_MAPPING_END_EVENT:
		--*depth;
		break;
	default:
		break;
	}
	if (tag)
		report_at(w, event->start_mark, "a tag is here (!name); leave it out, each key knows the type of its value");
	return true;
}

static size_t faults(const struct walk *w)
{
	return w->load->errors->count + w->load->errors->left_out;
}

static bool look_through(struct walk *w, struct slice text)
{
	unsigned depth = 0, documents = 0;
	size_t before = faults(w);
	bool going = true, at_end = false;
	yaml_parser_t parser;
	yaml_event_t event;

	if (!parser_start(&parser, text)) {
		report_at(w, (yaml_mark_t){ 0, 0, 0 }, "out of memory");
		return false;
	}
	while (going && !at_end) {
		if (!yaml_parser_parse(&parser, &event)) {
			report_parser(w, &parser, text);
			break;
		}
		going = look_at(w, &event, &depth, &documents);
		at_end = event.type == YAML_STREAM_END_EVENT;
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	return faults(w) == before;
}

static bool walk_text(struct conf_load *load, const struct conf_row *row, struct slice text)
{
	struct walk w = { .load = load };
	yaml_parser_t parser;
	yaml_node_t *root;
	size_t before = faults(&w);

	if (row)
		label_push(&w, "%s", row->key);
	if (!look_through(&w, text))
		return false;
	if (!parser_start(&parser, text)) {
		report_at(&w, (yaml_mark_t){ 0, 0, 0 }, "out of memory");
		return false;
	}
	if (!yaml_parser_load(&parser, &w.doc)) {
		report_parser(&w, &parser, text);
		yaml_parser_delete(&parser);
		return false;
	}
	root = yaml_document_get_root_node(&w.doc);
	if (row && root)
		walk_value(&w, row, root, load->conf);
	else if (row)
		report_at(&w, (yaml_mark_t){ 0, 0, 0 }, "has no value; write a list");
	else if (root && root->type == YAML_MAPPING_NODE)
		walk_map(&w, slice_of(""), root, load->conf);
	else if (root && !is_nothing(root))
		report(&w, root, "%s is here; a configuration is a map of keys, as \"listen:\"", kind_of(root));
	yaml_document_delete(&w.doc);
	yaml_parser_delete(&parser);
	return faults(&w) == before;
}

bool conf_yaml_text(struct conf_load *load, struct slice text)
{
	return walk_text(load, NULL, text);
}

bool conf_yaml_value(struct conf_load *load, const struct conf_row *row, struct slice text)
{
	return walk_text(load, row, text);
}
