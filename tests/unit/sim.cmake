# SPDX-License-Identifier: Apache-2.0
# The product's own sources once more, with limits that a mesh of a few nodes
# reaches. What the sim defines itself (rpc.h, clock, log) comes before the
# libraries, so theirs is not linked.
get_target_property(sim_controller mcmesh_controller SOURCES)
list(REMOVE_ITEM sim_controller clock.c metrics.c transfer.c)
list(TRANSFORM sim_controller PREPEND ${CMAKE_SOURCE_DIR}/controller/)
get_target_property(sim_libs mcmesh_controller LINK_LIBRARIES)
get_target_property(sim_node mcmesh_node_core SOURCES)
list(TRANSFORM sim_node PREPEND ${CMAKE_SOURCE_DIR}/node/)

add_executable(mcmesh-sim sim/main.c sim/world.c sim/node.c sim/net.c sim/net_rpc.c sim/db.c sim/db_shared.c sim/clock.c sim/stubs.c
	../node/aside.c ${sim_controller} ${sim_node})
target_compile_definitions(mcmesh-sim PRIVATE FEED_BACKLOG_MAX=2048 FEED_DELTA_BYTES=400
	FEED_CHUNK_BYTES=300 FEED_SNAPSHOTS_MAX=2 FEED_EDITIONS_BYTES=2000 UPLINK_REPORT_BYTES=150)
target_link_libraries(mcmesh-sim PRIVATE mcmesh_flags ${sim_libs} mcmesh_gmp)
target_link_options(mcmesh-sim PRIVATE -Wl,--wrap=store_open)
