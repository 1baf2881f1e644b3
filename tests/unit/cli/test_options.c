/* The command line of serve and check: what is taken, what is refused, and that it reaches the configuration. */
#include "cli/options.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdlib.h>

enum { ARGUMENTS_MAX = 16 };

struct parsed {
	struct options options;
	bool ok, flag;
	char *said;
};

static struct parsed parse(const char *const *arguments)
{
	struct parsed p = { .ok = false };
	const struct options_flag flags[] = { { "--flag", "a switch", &p.flag }, { NULL, NULL, NULL } };
	char *argv[ARGUMENTS_MAX + 1] = { (char *)(uintptr_t)"serve" };
	size_t size = 0;
	int argc = 1;
	FILE *f = open_memstream(&p.said, &size);

	for (; arguments[argc - 1]; argc++)
		argv[argc] = (char *)(uintptr_t)arguments[argc - 1];
	p.ok = options_parse(&p.options, argc, argv, flags, f);
	fclose(f);
	return p;
}

static void drop(struct parsed *p)
{
	options_fini(&p->options);
	free(p->said);
}

Test(options, good)
{
	struct parsed p = parse((const char *[]){ "-c", "f.yaml", "--listen", "[::1]:0", "--listen=127.0.0.1:0", "--flag", "--set",
		"auth.cache=2h", "--set=auth.realm=a=b", "--cert", "c", "--key", "k", NULL });
	struct conf_errors errors = { .text = NULL };
	struct conf *conf;

	cr_assert(p.ok && p.flag && !p.options.help, "%s", p.said);
	cr_assert_str_eq(p.said, "");
	cr_assert_str_eq(p.options.config, "f.yaml");
	cr_assert_eq(p.options.count, 6);
	cr_assert_null(options_load(&p.options, &errors));
	cr_assert_str_eq(errors.text[0], "f.yaml: cannot be read: No such file or directory");
	conf_errors_free(&errors);
	p.options.config = NULL;
	conf = options_load(&p.options, &errors);
	cr_assert_not_null(conf, "%s", errors.count ? errors.text[0] : "");
	cr_assert(conf->listen_count == 2 && conf->auth.cache_ms == 7200000 && conf->tls.certificate_count == 1);
	cr_assert_str_eq(conf->auth.realm, "a=b");
	cr_assert_str_eq(conf->tls.certificates[0].key, "k");
	conf_unref(conf);
	drop(&p);
}

Test(options, nothing_and_help)
{
	struct parsed p = parse((const char *[]){ NULL });

	cr_assert(p.ok && !p.options.config && p.options.count == 0 && !p.options.help);
	drop(&p);
	p = parse((const char *[]){ "--help", NULL });
	cr_assert(p.ok && p.options.help);
	drop(&p);
	p = parse((const char *[]){ "--config=x", "-h", NULL });
	cr_assert(p.ok && p.options.help);
	cr_assert_str_eq(p.options.config, "x");
	drop(&p);
}

Test(options, bad)
{
	static const struct {
		const char *arguments[4];
		const char *said;
	} rows[] = {
		{ { "--listen" }, "adit serve: --listen needs a value; see adit serve --help\n" },
		{ { "-c" }, "adit serve: -c needs a value; see adit serve --help\n" },
		{ { "--lisen", "x" }, "adit serve: unknown option --lisen: did you mean --listen?; see adit serve --help\n" },
		{ { "--frobnicate" }, "adit serve: unknown option --frobnicate; see adit serve --help\n" },
		{ { "--frobnicate=5" }, "adit serve: unknown option --frobnicate; see adit serve --help\n" },
		{ { "-x" }, "adit serve: unknown option -x; see adit serve --help\n" },
		{ { "file" }, "adit serve: unexpected argument file; see adit serve --help\n" },
		{ { "-" }, "adit serve: unexpected argument -; see adit serve --help\n" },
		{ { "--" }, "adit serve: unknown option --; see adit serve --help\n" },
		{ { "-c", "a", "-c", "b" }, "adit serve: a second configuration file: b; see adit serve --help\n" },
		{ { "--set", "x" },
			"adit serve: --set x: write it as --set KEY=VALUE, for example --set auth.cache=2h; see adit serve --help\n" },
		{ { "--set", "=x" },
			"adit serve: --set =x: write it as --set KEY=VALUE, for example --set auth.cache=2h; see adit serve --help\n" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *arguments[5] = { rows[i].arguments[0], rows[i].arguments[1], rows[i].arguments[2], rows[i].arguments[3] };
		struct parsed p = parse(arguments);

		cr_expect_not(p.ok, "%s", rows[i].said);
		cr_expect_str_eq(p.said, rows[i].said, "%s", p.said);
		drop(&p);
	}
}

Test(options, lack_of_memory)
{
	bool hit = true;

	for (unsigned long n = 1; hit; n++) {
		struct parsed p;

		mem_fault_set(n, false);
		p = parse((const char *[]){ "--listen", "a", "--set", "b=c", "--set", "d=e", NULL });
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert_eq(p.ok, !hit);
		if (hit)
			cr_assert_not_null(strstr(p.said, "out of memory"));
		drop(&p);
	}
}

/* Every option of the table is taken. */
Test(options, help_tells_the_truth)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	options_help("serve", "Serves.", NULL, f);
	fclose(f);
	for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char option[32];
		struct parsed p;

		if (strncmp(line, "  --", 4) != 0)
			continue;
		snprintf(option, sizeof(option), "%.*s", (int)strcspn(line + 2, " "), line + 2);
		p = parse((const char *[]){ option, strcmp(option, "--set") == 0 ? "a=b" : "value", NULL });
		cr_assert(p.ok, "%s: %s", option, p.said);
		drop(&p);
	}
	free(text);
}
