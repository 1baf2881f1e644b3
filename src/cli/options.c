/* Reads the command line that `adit serve` and `adit check` share. It knows the shape of options only; which there
 * are, and what their values may be, is conf's to say. */
#include "cli/options.h"

#include "adit/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool fault(FILE *errors, const char *command, const char *fmt, ...) ADIT_PRINTF(3, 4);

static bool fault(FILE *errors, const char *command, const char *fmt, ...)
{
	va_list args;

	fprintf(errors, "adit %s: ", command);
	va_start(args, fmt);
	vfprintf(errors, fmt, args);
	va_end(args);
	fprintf(errors, "; see adit %s --help\n", command);
	return false;
}

static bool add(struct options *o, const char *key, const char *value)
{
	struct conf_option *grown = mem_resize(o->list, o->count + 1, sizeof(*grown));

	if (!grown)
		return false;
	o->list = grown;
	o->list[o->count++] = (struct conf_option){ key, value };
	return true;
}

/* --set KEY=VALUE */
static bool add_set(struct options *o, const char *text, const char *equals)
{
	char **grown = mem_resize(o->owned, o->owned_count + 1, sizeof(*grown));

	if (!grown)
		return false;
	o->owned = grown;
	if (!(o->owned[o->owned_count] = mem_strndup(text, (size_t)(equals - text))))
		return false;
	o->owned_count++;
	return add(o, o->owned[o->owned_count - 1], equals + 1);
}

static bool take_flag(const struct options_flag *flags, const char *text)
{
	for (; flags && flags->name; flags++)
		if (strcmp(flags->name, text) == 0)
			return *flags->given = true;
	return false;
}

/* An option with a value. *key stays NULL for -c and --set. */
static bool known(struct slice name, const char *command, const char **key, FILE *errors)
{
	const char *argument, *near;
	char text[64];

	*key = NULL;
	if (slice_eq(name, slice_of("-c")) || slice_eq(name, slice_of("--config")) || slice_eq(name, slice_of("--set")))
		return true;
	snprintf(text, sizeof(text), SLICE_FMT, SLICE_ARG(name));
	*key = conf_option_key(text, &argument, &near);
	if (*key)
		return true;
	if (near)
		return fault(errors, command, "unknown option %s: did you mean %s?", text, near);
	return fault(errors, command, "unknown option %s", text);
}

static bool take_set(struct options *o, const char *command, const char *value, FILE *errors)
{
	const char *equals = strchr(value, '=');

	if (!equals || equals == value)
		return fault(errors, command, "--set %s: write it as --set KEY=VALUE, for example --set auth.cache=2h", value);
	return add_set(o, value, equals) || fault(errors, command, "out of memory");
}

static bool take_config(struct options *o, const char *command, const char *value, FILE *errors)
{
	if (o->config)
		return fault(errors, command, "a second configuration file: %s", value);
	o->config = value;
	return true;
}

bool options_parse(struct options *o, int argc, char **argv, const struct options_flag *flags, FILE *errors)
{
	const char *command = argv[0];

	*o = (struct options){ .config = NULL };
	for (int i = 1; i < argc; i++) {
		const char *text = argv[i], *value, *key;
		struct slice name = { text, strncmp(text, "--", 2) == 0 ? strcspn(text, "=") : strlen(text) };

		if (strcmp(text, "-h") == 0 || strcmp(text, "--help") == 0) {
			o->help = true;
			continue;
		}
		if (take_flag(flags, text))
			continue;
		if (text[0] != '-' || text[1] == '\0')
			return fault(errors, command, "unexpected argument %s", text);
		if (!known(name, command, &key, errors))
			return false;
		if (text[name.n] == '=')
			value = text + name.n + 1;
		else if (i + 1 < argc)
			value = argv[++i];
		else
			return fault(errors, command, "%s needs a value", text);
		if (key ? !add(o, key, value) && !fault(errors, command, "out of memory") :
			  slice_eq(name, slice_of("--set")) ? !take_set(o, command, value, errors) :
							      !take_config(o, command, value, errors))
			return false;
	}
	return true;
}

void options_fini(struct options *o)
{
	for (size_t i = 0; i < o->owned_count; i++)
		mem_free(o->owned[i]);
	mem_free(o->owned);
	mem_free(o->list);
	*o = (struct options){ .config = NULL };
}

static void help_line(const char *left, const char *right, FILE *to)
{
	fprintf(to, "  %-22s%s\n", left, right);
}

void options_help(const char *command, const char *purpose, const struct options_flag *flags, FILE *to)
{
	fprintf(to, "usage: adit %s [-c FILE] [OPTION...]\n\n%s\n\n", command, purpose);
	help_line("-c, --config FILE", "configuration file; see adit.yaml(5)", to);
	help_line("--set KEY=VALUE", "any other key of it that takes a plain value", to);
	for (; flags && flags->name; flags++)
		help_line(flags->name, flags->brief, to);
	help_line("-h, --help", "this text", to);
	fputs("\nOptions that stand for keys of the configuration, and override the file:\n", to);
	conf_print_options(to);
}

struct conf *options_load(const struct options *o, struct conf_errors *errors)
{
	return conf_load(o->config, o->list, o->count, errors);
}
