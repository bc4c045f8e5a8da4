"""Cache a teacher's features of every image, so that trainings can read them instead of running the teacher."""
