/* Students that the visitor trained, for the list in Inspect. */
const own = [];
const hearers = [];
SpecKD.students = {
  all: () => own,
  add(student) {
    own.push(student);
    for (const hear of hearers) hear(student);
  },
  listen(hear) {
    hearers.push(hear);
    own.forEach(hear);
  },
};
