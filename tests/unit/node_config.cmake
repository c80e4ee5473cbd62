# SPDX-License-Identifier: Apache-2.0
if(TARGET mcmesh_node_config)
	mcmesh_test(test_node_config SOURCES unit/node/config.c LIBS mcmesh_node_config)
	target_compile_definitions(test_node_config PRIVATE
		SOURCE_DIR="${CMAKE_SOURCE_DIR}")
endif()
