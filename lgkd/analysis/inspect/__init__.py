"""Why a student works: what it attends to, what it has in common with its teacher, what it withstands."""
