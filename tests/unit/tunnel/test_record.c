/* From an access to its records: what is in them, who is told, and who has given up. */
#include "tunnel/record.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "component/turning.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct loop *loop;
static struct audit *audit;
static char dir[32], text[16384];
static struct client client;
static struct access subject;
static unsigned dones;
static enum reason verdict;

static void setup(void)
{
	char error[256];

	log_set_level(LOG_LEVEL_ERR);
	snprintf(dir, sizeof(dir), "/tmp/adit-record-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	loop = loop_new_manual();
	audit = audit_new(&(struct audit_config){ .directory = dir }, error, sizeof(error));
	cr_assert(loop && audit);
	client = (struct client){ .tls_version = "TLSv1.3", .tls_sni = "proxy.test" };
	audit_id(client.id);
	cr_assert(addr_parse(&client.address, slice_of("192.0.2.7:40000")));
	subject = (struct access){ .client = &client, .protocol = "http/1.1", .method = slice_of("CONNECT"),
		.target = slice_of("a.test:443"), .user = "alice", .authenticated = true, .rule = "web", .started_ms = 1000 };
	audit_id(subject.id);
	dones = 0;
}

static void read_file(const char *name)
{
	char path[96];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "r");
	text[0] = '\0';
	if (!f)
		return;
	text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
	fclose(f);
}

static void teardown(void)
{
	static const char *const names[] = { "access.jsonl", "strangers.jsonl", "users/alice.jsonl", "users" };
	char path[96];

	audit_free(audit);
	loop_turn(loop);
	cr_expect_eq(loop_held(loop), 0u);
	loop_free(loop);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		if (unlink(path) != 0)
			(void)rmdir(path);
	}
	cr_expect_eq(rmdir(dir), 0);
}

TestSuite(record, .init = setup, .fini = teardown, .timeout = 60);

static void on_done(void *ctx, enum reason reason)
{
	cr_assert_eq(ctx, &subject);
	dones++;
	verdict = reason;
}

static bool has(const char *what)
{
	return strstr(text, what) != NULL;
}

Test(record, an_open_is_written_before_it_is_told)
{
	struct record_wait *wait;

	cr_assert(addr_parse(&subject.address, slice_of("192.0.2.80:443")));
	cr_assert_eq(record_open(audit, loop, &subject, on_done, &subject, &wait), REASON_OK);
	cr_assert_eq(dones, 0u);
	cr_assert_eq(loop_held(loop), 1u);
	UNTIL(loop, dones == 1);
	cr_assert_eq(verdict, REASON_OK);
	read_file("access.jsonl");
	cr_assert(has("\"kind\":\"open\"") && has("\"user\":\"alice\"") && has("\"status\":200") && has("\"rule\":\"web\""), "%s", text);
	cr_assert(has("\"address\":\"192.0.2.80\"") && has("\"tls_sni\":\"proxy.test\"") && has(subject.id), "%s", text);
	cr_assert_not(has("\"local\""), "%s", text);
	cr_assert_not(has("\"reason\""), "%s", text);
}

Test(record, who_has_given_up_is_not_told)
{
	struct record_wait *wait;

	cr_assert_eq(record_open(audit, loop, &subject, on_done, &subject, &wait), REASON_OK);
	record_give_up(wait);
	record_give_up(NULL);
	UNTIL(loop, loop_held(loop) == 0);
	cr_assert_eq(dones, 0u);
}

Test(record, a_stopped_audit_takes_none)
{
	struct record_wait *wait;

	cr_assert(audit_stop(audit));
	cr_assert_eq(record_open(audit, loop, &subject, on_done, &subject, &wait), REASON_AUDIT_UNAVAILABLE);
	cr_assert_eq(loop_held(loop), 0u);
}

Test(record, every_allocation_may_fail)
{
	for (unsigned long n = 1;; n++) {
		struct record_wait *wait = NULL;
		enum reason reason;

		mem_fault_set(n, false);
		reason = record_open(audit, loop, &subject, on_done, &subject, &wait);
		if (!mem_fault_hit()) {
			mem_fault_set(0, false);
			cr_assert_eq(reason, REASON_OK);
			cr_assert_gt(n, 1ul);
			break;
		}
		mem_fault_set(0, false);
		cr_assert_neq(reason, REASON_OK);
		cr_assert_eq(loop_held(loop), 0u);
	}
	UNTIL(loop, dones == 1);
}

Test(record, a_close_says_how_it_ended)
{
	struct relay_count count = { .up = 7, .down = 9, .client_ended = true, .client_truncated = true };

	record_progress(audit, &subject, &count, 1500);
	record_close(audit, &subject, REASON_TARGET_RESET, 200, &count, 3500);
	cr_assert(audit_stop(audit));
	read_file("access.jsonl");
	cr_assert(has("\"kind\":\"progress\"") && has("\"duration_ms\":500"), "%s", text);
	cr_assert(has("\"reason\":\"target_reset\"") && has("\"status\":200") && has("\"half_close\":\"truncated\"") && has("\"bytes_up\":7") &&
		      has("\"bytes_down\":9") && has("\"duration_ms\":2500"), "%s", text);
}

Test(record, a_proper_end_is_clean_and_none_is_left_out)
{
	struct relay_count count = { .client_ended = true };

	record_close(audit, &subject, REASON_OK, 200, &count, 2000);
	count.client_ended = false;
	record_close(audit, &subject, REASON_OK, 200, &count, 2000);
	cr_assert(audit_stop(audit));
	read_file("access.jsonl");
	cr_assert(has("\"half_close\":\"clean\""), "%s", text);
	cr_assert_null(strstr(strstr(text, "half_close") + 1, "half_close"), "%s", text);
}

Test(record, a_stranger_is_who_he_claims_to_be_and_no_more)
{
	subject.authenticated = false;
	record_deny(audit, &subject, REASON_AUTH_FAILED);
	cr_assert(audit_stop(audit));
	read_file("strangers.jsonl");
	cr_assert(has("\"kind\":\"deny\"") && has("\"claimed_user\":\"alice\"") && has("\"status\":407") && has("\"reason\":\"auth_failed\""), "%s", text);
	cr_assert_not(has("\"user\":"), "%s", text);
	read_file("access.jsonl");
	cr_assert_str_eq(text, "");
}
