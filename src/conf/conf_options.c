/* Values from the command line, laid over what the file gave. What is hard is lists: the first option for one
 * empties it, and a list of maps is filled by columns, the n-th value of each going to the n-th item. */
#include "conf/conf_priv.h"

#include "adit/log/log.h"

/* The options' part of a load. */
struct optioned {
	struct conf_load *load;
	bool cleared[CONF_ROWS_MAX]; /* lists whose earlier items are gone */
	size_t nth[CONF_ROWS_MAX]; /* how often a row of an item was given */
};

/* "tls.certificates.chain" and "tls.certificates[].chain" are the same key here. */
static bool key_equal(const char *row_key, const char *key)
{
	for (; *row_key; row_key++, key++) {
		if (strncmp(row_key, "[]", 2) == 0 && strncmp(key, "[]", 2) != 0)
			row_key += 2;
		if (*row_key != *key)
			return false;
	}
	return *key == '\0';
}

static const struct conf_row *row_of_option(const char *key)
{
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (key_equal(row->key, key))
			return row;
	return NULL;
}

static void option_fault(struct optioned *o, const struct conf_row *row, const char *key, const char *why)
{
	char safe[CONF_LABEL_SIZE];

	if (row && row->option)
		conf_errors_add(o->load->errors, "%s: %s", row->option, why);
	else
		conf_errors_add(o->load->errors, "--set %s: %s", log_safe(slice_of(key), safe, sizeof(safe)), why);
}

static void unknown_option(struct optioned *o, const char *key)
{
	const char *dot = strrchr(key, '.'), *near;
	struct slice parent = { key, dot ? (size_t)(dot - key) : 0 };
	char why[CONF_WHY_SIZE];

	near = conf_table_near(parent, slice_of(dot ? dot + 1 : key));
	if (!near)
		snprintf(why, sizeof(why), "unknown key; adit.yaml(5) lists all keys");
	else if (dot && conf_table_find(parent, slice_of(near)))
		snprintf(why, sizeof(why), "unknown key; did you mean %.*s.%s?", (int)parent.n, parent.p, near);
	else
		snprintf(why, sizeof(why), "unknown key; did you mean %s?", near);
	option_fault(o, NULL, key, why);
}

/* The list's items from the file go at the first option for it. */
static void list_begin(struct optioned *o, const struct conf_row *list)
{
	size_t i = conf_table_index(list);

	if (!o->cleared[i])
		conf_list_clear(list, o->load->conf);
	o->cleared[i] = o->load->given[i] = true;
}

/* The n-th value for a row of a list's items belongs to the n-th item. */
static bool set_in_item(struct optioned *o, const struct conf_row *list, const struct conf_row *row, const char *value,
	char why[static CONF_WHY_SIZE])
{
	size_t n = o->nth[conf_table_index(row)]++;
	struct conf *conf = o->load->conf;

	list_begin(o, list);
	if (n >= list->most) {
		snprintf(why, CONF_WHY_SIZE, "is there more than %llu times", list->most);
		return false;
	}
	while (n >= conf_list_count(list, conf)) {
		if (!conf_list_add(list, conf)) {
			snprintf(why, CONF_WHY_SIZE, "out of memory");
			return false;
		}
	}
	return conf_types_parse(row, conf_list_at(list, conf, n), slice_of(value), why);
}

static bool set_item(struct optioned *o, const struct conf_row *list, const char *value, char why[static CONF_WHY_SIZE])
{
	struct conf *conf = o->load->conf;
	void *item;

	list_begin(o, list);
	if (conf_list_count(list, conf) >= list->most) {
		snprintf(why, CONF_WHY_SIZE, "is there more than %llu times", list->most);
		return false;
	}
	if (!(item = conf_list_add(list, conf))) {
		snprintf(why, CONF_WHY_SIZE, "out of memory");
		return false;
	}
	if (list->items->parse(item, slice_of(value), why))
		return true;
	conf_list_drop_last(list, conf);
	return false;
}

static void set_list(struct optioned *o, const struct conf_row *list, const char *value)
{
	struct conf_load load = { .conf = o->load->conf, .errors = o->load->errors };
	char name[CONF_LABEL_SIZE];

	snprintf(name, sizeof(name), "--set %s", list->key);
	load.name = name;
	o->cleared[conf_table_index(list)] = false;
	list_begin(o, list);
	(void)conf_yaml_value(&load, list, slice_of(value));
}

static void option_apply(struct optioned *o, const struct conf_option *option)
{
	const struct conf_row *row = row_of_option(option->key), *list = NULL;
	char why[CONF_WHY_SIZE];
	bool ok = true;

	if (!row) {
		unknown_option(o, option->key);
		return;
	}
	if (strstr(row->key, "[]"))
		list = conf_table_key((struct slice){ row->key, strcspn(row->key, "[") });
	if (row->type == CONF_LIST && !list && row->items->bare) {
		ok = set_in_item(o, row, conf_table_first(row->key), option->value, why);
	} else if (row->type == CONF_LIST && !list && row->items->parse) {
		ok = set_item(o, row, option->value, why);
	} else if (row->type == CONF_LIST && !list) {
		set_list(o, row, option->value);
	} else if (list && (row->option || (list->items->bare && row == conf_table_first(list->key)))) {
		ok = set_in_item(o, list, row, option->value, why);
	} else if (row->type == CONF_SECTION) {
		ok = false;
		snprintf(why, sizeof(why), "is a section; set one of its keys");
	} else if (list) {
		ok = false;
		snprintf(why, sizeof(why), "can be set in a configuration file only");
	} else {
		o->load->given[conf_table_index(row)] = true;
		ok = conf_types_parse(row, o->load->conf, slice_of(option->value), why);
	}
	if (!ok)
		option_fault(o, row, option->key, why);
}

/* Items made by options: "--key" without its "--cert". */
static void items_complete(struct optioned *o)
{
	const struct conf_row *list, *row;
	char buf[CONF_TEXT_SIZE];

	for (size_t i = 0; (list = conf_table_row(i)) != NULL; i++) {
		if (!o->cleared[i] || list->items->parse)
			continue;
		for (size_t j = 0; (row = conf_table_row(j)) != NULL; j++) {
			if (!(row->flags & CONF_REQUIRED) || !row->option || strncmp(row->key, list->key, strlen(list->key)) != 0)
				continue;
			for (size_t n = 0; n < conf_list_count(list, o->load->conf); n++)
				if (!conf_types_text(row, conf_list_at(list, o->load->conf, n), buf))
					conf_errors_add(o->load->errors, "%s[%zu]: %s is missing; give it with %s", list->key,
						n + 1, conf_table_name(row), row->option);
		}
	}
}

void conf_options_apply(struct conf_load *load, const struct conf_option *options, size_t count)
{
	struct optioned o = { .load = load };
	size_t before = load->errors->count + load->errors->left_out;

	for (size_t i = 0; i < count; i++)
		option_apply(&o, &options[i]);
	if (load->errors->count + load->errors->left_out == before)
		items_complete(&o);
}
