# SPDX-License-Identifier: Apache-2.0
# Many agents in one process. The agents' mirror is in it twice: the swarm's own
# under its name, the real one renamed.
add_executable(mcmesh-swarm swarm/main.c swarm/scenario.c swarm/swarm.c swarm/flock.c ../node/aside.c
	$<TARGET_OBJECTS:mcmesh_real_mirror>)
target_link_libraries(mcmesh-swarm PRIVATE mcmesh_node_core mcmesh_rpc mcmesh_proto)
add_library(mcmesh_real_mirror OBJECT ${CMAKE_SOURCE_DIR}/node/mirror.c)
target_link_libraries(mcmesh_real_mirror PRIVATE mcmesh_flags mcmesh_common mcmesh_proto)
target_compile_options(mcmesh_real_mirror PRIVATE
	-include ${CMAKE_CURRENT_SOURCE_DIR}/swarm/real_mirror.h)
