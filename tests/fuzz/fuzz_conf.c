/* The configuration file: any text is loaded or refused with a reason, and what was loaded prints as a file that
 * loads to the same again. The first bytes up to a NUL, if there is one, are "key=value" of one option of the
 * command line. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"
#include "adit/base/obj.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *printed(const struct conf *conf, size_t *size)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, size);

	conf_print(conf, f);
	fclose(f);
	return text;
}

static void check_messages(const struct conf_errors *errors)
{
	ADIT_ASSERT(errors->count > 0 && errors->count <= CONF_ERRORS_MAX);
	for (size_t i = 0; i < errors->count; i++)
		for (const char *p = errors->text[i]; *p; p++)
			ADIT_ASSERT((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
}

static void check_snapshot(const struct conf *conf)
{
	struct conf_errors errors = { .text = NULL };
	struct conf *again;
	char *first, *second;
	size_t n, m;

	ADIT_ASSERT(conf->listen_count > 0 && conf->workers >= 1 && conf->workers <= 256);
	ADIT_ASSERT(conf->auth.realm && conf->audit.directory && conf->audit.node);
	ADIT_ASSERT(conf->auth.per_prefix.per_ms > 0 && conf->limits.handshakes_per_prefix.per_ms > 0);
	ADIT_ASSERT(conf->http.request_line_bytes <= conf->http.head_bytes);
	for (size_t i = 0; i < conf->listen_count; i++)
		ADIT_ASSERT(conf->listen[i].address.len > 0);
	for (size_t i = 0; i < conf->tls.certificate_count; i++)
		ADIT_ASSERT(conf->tls.certificates[i].chain && conf->tls.certificates[i].key);
	for (size_t i = 0; i < conf->policy.rule_count; i++) {
		const struct conf_rule *rule = &conf->policy.rules[i];

		ADIT_ASSERT(rule->name && rule->to_count > 0);
		for (size_t j = 0; j < rule->to_count; j++)
			ADIT_ASSERT((rule->to[j].kind == CONF_TO_NAME || rule->to[j].kind == CONF_TO_SUFFIX) == (rule->to[j].name != NULL));
		for (size_t j = 0; j < rule->port_count; j++)
			ADIT_ASSERT(rule->ports[j].first > 0 && rule->ports[j].first <= rule->ports[j].last);
	}
	first = printed(conf, &n);
	again = conf_parse_text("printed", (struct slice){ first, n }, NULL, 0, &errors);
	if (!again)
		conf_errors_print(&errors, stderr);
	ADIT_ASSERT(again);
	second = printed(again, &m);
	ADIT_ASSERT(n == m && memcmp(first, second, n) == 0);
	free(first);
	free(second);
	conf_unref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice text = { (const char *)data, size };
	struct conf_errors errors = { .text = NULL };
	struct conf_option option = { NULL, "" };
	const char *nul = size ? memchr(text.p, '\0', size) : NULL;
	char *key = NULL, *equals;
	struct conf *conf;

	if (nul) {
		size_t n = (size_t)(nul - text.p);

		key = mem_strndup(text.p, n);
		ADIT_ASSERT(key);
		option.key = key;
		if ((equals = strchr(key, '=')) != NULL) {
			*equals = '\0';
			option.value = equals + 1;
		}
		text = (struct slice){ nul + 1, size - n - 1 };
	}
	if (!text.p)
		text.p = "";
	conf = conf_parse_text("fuzz", text, &option, nul ? 1 : 0, &errors);
	ADIT_ASSERT((conf == NULL) == conf_failed(&errors));
	if (conf)
		check_snapshot(conf);
	else
		check_messages(&errors);
	conf_unref(conf);
	conf_errors_free(&errors);
	mem_free(key);
	return 0;
}
