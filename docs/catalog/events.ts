// Made from the code by: orchestrator catalog --write

/** A CloudEvents 1.0 envelope. */
export interface Envelope<Type extends string, Version extends number, Data> {
  specversion: "1.0";
  id: string;
  source: string;
  type: Type;
  /** When it happened, as in RFC 3339 with its time zone. */
  time: string;
  datacontenttype?: "application/json";
  dataversion: Version;
  correlationid?: string;
  causationid?: string;
  data: Data;
}

/** A user asked for a new account; others may use it once ACCOUNT_CREATION_COMPLETED is out. */ export type AccountCreated = {
  "user_id": string;
  /** Chosen by the user's side; one that is taken is refused. */ "account_id": string;
  "name": string;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  /** How far under zero the balance may go, in the currency's minor unit. */ "overdraft_limit"?: number;
  /** In the currency's minor unit; under zero only down to the overdraft limit. */ "opening_balance": number;
  "icon": string;
  "colour": string;
};

/** The account is open. */ export type AccountCreationCompleted = {
  "user_id": string;
  "account_id": string;
};

export type AccountCreationFailed_JsonValue = unknown;

export type AccountCreationFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** There is no such account, and no trace of one. */ export type AccountCreationFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, AccountCreationFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (AccountCreationFailed_UndoneStep)[];
};

export type AccountValueEditCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The account holds what the user said. */ export type AccountValueEditCompleted = {
  "user_id": string;
  "account_id": string;
  /** What was added; less than zero if it was taken off. */ "difference": AccountValueEditCompleted_Money;
};

export type AccountValueEditFailed_JsonValue = unknown;

export type AccountValueEditFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The account holds what it held. */ export type AccountValueEditFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, AccountValueEditFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (AccountValueEditFailed_UndoneStep)[];
};

export type AccountValueEditRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user said how much an account really holds. */ export type AccountValueEditRequested = {
  "user_id": string;
  "account_id": string;
  /** The balance from now on, in the account's currency. */ "value": AccountValueEditRequested_Money;
  "note"?: string;
};

/** The record is gone, and its amount is out of its account and of its category. */ export type ActivityRecordRemovalCompleted = {
  "user_id": string;
  "record_id": string;
  /** The category was set to zero since, so nothing of the record was left in it. */ "was_reset_since": boolean;
};

export type ActivityRecordRemovalFailed_JsonValue = unknown;

export type ActivityRecordRemovalFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The record stands, with all it did. */ export type ActivityRecordRemovalFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, ActivityRecordRemovalFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (ActivityRecordRemovalFailed_UndoneStep)[];
};

/** A user wants an income or an expense taken back, with all it did. */ export type ActivityRecordRemovalRequested = {
  "user_id": string;
  /** Of the kind `category_value_change`. */ "record_id": string;
};

export type CategoryResetCompleted_BudgetType = "income" | "expense";

/** The categories are at zero. */ export type CategoryResetCompleted = {
  "user_id": string;
  "budget_type": CategoryResetCompleted_BudgetType;
  /** How many there are. */ "categories": number;
};

export type CategoryResetFailed_JsonValue = unknown;

export type CategoryResetFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** Every category has what it had. */ export type CategoryResetFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CategoryResetFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CategoryResetFailed_UndoneStep)[];
};

export type CategoryResetRequested_BudgetType = "income" | "expense";

/** A user wants every category of one budget type to start again from zero. */ export type CategoryResetRequested = {
  "user_id": string;
  "budget_type": CategoryResetRequested_BudgetType;
};

export type CategoryTransactionCompleted_BudgetType = "income" | "expense";

export type CategoryTransactionCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The account, the category and the activity log have it. */ export type CategoryTransactionCompleted = {
  "user_id": string;
  "category_id": string;
  "account_id": string;
  "budget_type": CategoryTransactionCompleted_BudgetType;
  /** In the account's currency. */ "amount": CategoryTransactionCompleted_Money;
  /** In the category's currency. */ "converted": CategoryTransactionCompleted_Money;
  /** The rate that was used; None where both currencies are one. */ "rate": string | null;
};

export type CategoryTransactionFailed_JsonValue = unknown;

export type CategoryTransactionFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** Nothing was earned or spent. */ export type CategoryTransactionFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CategoryTransactionFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CategoryTransactionFailed_UndoneStep)[];
};

export type CategoryTransactionRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user earned or spent money; the category says which. */ export type CategoryTransactionRequested = {
  "user_id": string;
  "category_id": string;
  "account_id": string;
  /** In the account's currency. */ "amount": CategoryTransactionRequested_Money;
  "note"?: string;
};

/** The display currency is another, and every category's value is kept in it. */ export type CurrencyChangeCompleted = {
  "user_id": string;
  "before": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
  /** Units of the new currency for one of the old. */ "rate": string;
};

export type CurrencyChangeFailed_JsonValue = unknown;

export type CurrencyChangeFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** The display currency is what it was. */ export type CurrencyChangeFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, CurrencyChangeFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (CurrencyChangeFailed_UndoneStep)[];
};

/** A user wants to see their categories in another currency. */ export type CurrencyChangeRequested = {
  "user_id": string;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

export type MoneyTransferCompleted_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** The money has moved. */ export type MoneyTransferCompleted = {
  "user_id": string;
  "from_account_id": string;
  "to_account_id": string;
  /** What the source lost. */ "left": MoneyTransferCompleted_Money;
  /** What the target gained. */ "arrived": MoneyTransferCompleted_Money;
  /** The rate that was used; None if the event named what arrives, or both are in one currency. */ "rate"?: string | null;
};

export type MoneyTransferFailed_JsonValue = unknown;

export type MoneyTransferFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** No money has moved. */ export type MoneyTransferFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, MoneyTransferFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (MoneyTransferFailed_UndoneStep)[];
};

export type MoneyTransferRequested_Money = {
  "amount_minor": number;
  "currency": "AED" | "AFN" | "ALL" | "AMD" | "AOA" | "ARS" | "AUD" | "AWG" | "AZN" | "BAM" | "BBD" | "BDT" | "BGN" | "BHD" | "BIF" | "BMD" | "BND" | "BOB" | "BRL" | "BSD" | "BTN" | "BWP" | "BYN" | "BZD" | "CAD" | "CDF" | "CHF" | "CLP" | "CNY" | "COP" | "CRC" | "CUP" | "CVE" | "CZK" | "DJF" | "DKK" | "DOP" | "DZD" | "EGP" | "ERN" | "ETB" | "EUR" | "FJD" | "FKP" | "GBP" | "GEL" | "GHS" | "GIP" | "GMD" | "GNF" | "GTQ" | "GYD" | "HKD" | "HNL" | "HTG" | "HUF" | "IDR" | "ILS" | "INR" | "IQD" | "IRR" | "ISK" | "JMD" | "JOD" | "JPY" | "KES" | "KGS" | "KHR" | "KMF" | "KPW" | "KRW" | "KWD" | "KYD" | "KZT" | "LAK" | "LBP" | "LKR" | "LRD" | "LSL" | "LYD" | "MAD" | "MDL" | "MGA" | "MKD" | "MMK" | "MNT" | "MOP" | "MRU" | "MUR" | "MVR" | "MWK" | "MXN" | "MYR" | "MZN" | "NAD" | "NGN" | "NIO" | "NOK" | "NPR" | "NZD" | "OMR" | "PAB" | "PEN" | "PGK" | "PHP" | "PKR" | "PLN" | "PYG" | "QAR" | "RON" | "RSD" | "RUB" | "RWF" | "SAR" | "SBD" | "SCR" | "SDG" | "SEK" | "SGD" | "SHP" | "SLE" | "SOS" | "SRD" | "SSP" | "STN" | "SYP" | "SZL" | "THB" | "TJS" | "TMT" | "TND" | "TOP" | "TRY" | "TTD" | "TWD" | "TZS" | "UAH" | "UGX" | "USD" | "UYU" | "UZS" | "VES" | "VND" | "VUV" | "WST" | "XAF" | "XCD" | "XCG" | "XOF" | "XPF" | "YER" | "ZAR" | "ZMW" | "ZWG";
};

/** A user asked to move money from one of their accounts to another. */ export type MoneyTransferRequested = {
  "user_id": string;
  "from_account_id": string;
  "to_account_id": string;
  /** What leaves, in the source's currency. */ "amount": MoneyTransferRequested_Money;
  /** What arrives, in the target's currency. Without it the stored rate decides. */ "arriving"?: MoneyTransferRequested_Money | null;
};

/** The month is on record. */ export type MonthResetCompleted = {
  "user_id": string;
  "month": string;
  /** False if this month, or a later one, had been reset before: then nothing was done. */ "was_due": boolean;
};

export type MonthResetFailed_JsonValue = unknown;

export type MonthResetFailed_UndoneStep = {
  "number": number;
  "operation": string;
  "compensation": string;
  "skipped"?: boolean;
};

/** Every category has what it had, and the month may be reset still. */ export type MonthResetFailed = {
  /** The id of the triggering event. */ "event_id": string;
  /** The type of the triggering event. */ "event_type": string;
  /** The triggering event's fields, as it arrived. */ "event": Record<string, MonthResetFailed_JsonValue>;
  /** The version of the triggering event's contract. */ "event_version"?: number;
  /** A stable code in the form `domain.reason`. */ "error_code": string;
  /** The reason, for a person. */ "message": string;
  /** The steps that were undone, in the order of their undo: the last step first. */ "undone": (MonthResetFailed_UndoneStep)[];
};

/** A month is over: its categories are put on record and start again from zero. From a schedule, or by hand; asking again for a month that was reset changes nothing. */ export type MonthResetRequested = {
  "user_id": string;
  /** The month that is over. */ "month": string;
};

/** Every event. */
export type Event =
  | Envelope<"ACCOUNT_CREATED", 1, AccountCreated>
  | Envelope<"ACCOUNT_CREATION_COMPLETED", 1, AccountCreationCompleted>
  | Envelope<"ACCOUNT_CREATION_FAILED", 1, AccountCreationFailed>
  | Envelope<"ACCOUNT_VALUE_EDIT_COMPLETED", 1, AccountValueEditCompleted>
  | Envelope<"ACCOUNT_VALUE_EDIT_FAILED", 1, AccountValueEditFailed>
  | Envelope<"ACCOUNT_VALUE_EDIT_REQUESTED", 1, AccountValueEditRequested>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_COMPLETED", 1, ActivityRecordRemovalCompleted>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_FAILED", 1, ActivityRecordRemovalFailed>
  | Envelope<"ACTIVITY_RECORD_REMOVAL_REQUESTED", 1, ActivityRecordRemovalRequested>
  | Envelope<"CATEGORY_RESET_COMPLETED", 1, CategoryResetCompleted>
  | Envelope<"CATEGORY_RESET_FAILED", 1, CategoryResetFailed>
  | Envelope<"CATEGORY_RESET_REQUESTED", 1, CategoryResetRequested>
  | Envelope<"CATEGORY_TRANSACTION_COMPLETED", 1, CategoryTransactionCompleted>
  | Envelope<"CATEGORY_TRANSACTION_FAILED", 1, CategoryTransactionFailed>
  | Envelope<"CATEGORY_TRANSACTION_REQUESTED", 1, CategoryTransactionRequested>
  | Envelope<"CURRENCY_CHANGE_COMPLETED", 1, CurrencyChangeCompleted>
  | Envelope<"CURRENCY_CHANGE_FAILED", 1, CurrencyChangeFailed>
  | Envelope<"CURRENCY_CHANGE_REQUESTED", 1, CurrencyChangeRequested>
  | Envelope<"MONEY_TRANSFER_COMPLETED", 1, MoneyTransferCompleted>
  | Envelope<"MONEY_TRANSFER_FAILED", 1, MoneyTransferFailed>
  | Envelope<"MONEY_TRANSFER_REQUESTED", 1, MoneyTransferRequested>
  | Envelope<"MONTH_RESET_COMPLETED", 1, MonthResetCompleted>
  | Envelope<"MONTH_RESET_FAILED", 1, MonthResetFailed>
  | Envelope<"MONTH_RESET_REQUESTED", 1, MonthResetRequested>;
