/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include <criterion/criterion.h>
#include <mcmesh/v1/agent.pb-c.h>
#include <mcmesh/v1/mesh.pb-c.h>
#include <mcmesh/v1/node.pb-c.h>

static void expect(const ProtobufCMessage *m, const char *want)
{
	char *text = json_from_message(m, false);

	cr_assert_str_eq(text, want);
	free(text);
}

Test(json, prints_defaults_enums_and_64_bit_numbers)
{
	Mcmesh__V1__Member member = MCMESH__V1__MEMBER__INIT, *list[] = { &member };
	Mcmesh__V1__ListMembersResponse r = MCMESH__V1__LIST_MEMBERS_RESPONSE__INIT;
	char *sources[] = { (char *)"192.0.2.1", (char *)"192.0.2.2" };

	expect(&r.base,
	       "{\"members\":[],\"nextPageToken\":\"\",\"epoch\":\"\",\"revision\":\"0\"}");
	member.segment = 1;
	member.mode = MCMESH__V1__FILTER__MODE__EXCLUDE;
	member.n_sources = 2;
	member.sources = sources;
	member.revision = UINT64_MAX;
	r.n_members = 1;
	r.members = list;
	expect(&r.base,
	       "{\"members\":[{\"segment\":1,\"group\":\"\",\"node\":\"\",\"mode\":\"EXCLUDE\","
	       "\"sources\":[\"192.0.2.1\",\"192.0.2.2\"],"
	       "\"revision\":\"18446744073709551615\"}],"
	       "\"nextPageToken\":\"\",\"epoch\":\"\",\"revision\":\"0\"}");
}

Test(json, leaves_out_what_a_oneof_does_not_hold)
{
	Mcmesh__V1__WatchResponse w = MCMESH__V1__WATCH_RESPONSE__INIT;
	Mcmesh__V1__AddStaticMemberRequest a = MCMESH__V1__ADD_STATIC_MEMBER_REQUEST__INIT;

	w.type = MCMESH__V1__WATCH_RESPONSE__TYPE__SYNCED;
	expect(&w.base, "{\"type\":\"SYNCED\",\"revision\":\"0\",\"resumeToken\":\"\"}");
	expect(&a.base, "{}");
	w.type = (Mcmesh__V1__WatchResponse__Type)77;
	expect(&w.base, "{\"type\":77,\"revision\":\"0\",\"resumeToken\":\"\"}");
}

Test(json, bytes_are_base64_and_bools_are_bools)
{
	Mcmesh__V1__NodeChange n = MCMESH__V1__NODE_CHANGE__INIT;
	uint8_t vtep[] = { 203, 0, 113, 1 };

	n.node = (char *)"a\"b\n";
	n.deleted = true;
	n.vtep.data = vtep;
	n.vtep.len = sizeof(vtep);
	expect(&n.base, "{\"node\":\"a\\\"b\\n\",\"deleted\":true,\"vtep\":\"ywBxAQ==\","
			"\"revision\":\"0\"}");
}
